"""The folder of a sweep: its grid and cells, and a folder for every run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vedit.errors import ConfigError
from vedit.sweep.experiments import Tree
from vedit.sweep.metrics import REPORT, parts
from vedit.sweep.plan import Plan, Run
from vedit.sweep.records import Cell, Grid
from vedit.sweep.serial import as_yaml, grid_from, read_json
from vedit.sweep.state import RunState, read_state, write_json

PLAN = "sweep.json"
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"


@dataclass(frozen=True)
class Recorded:
    """What a sweep's folder says about a run.

    Attributes:
        digest: of the run.
        title: in words.
        after: digest of the run it starts from.
        tested: whether a test follows the training.
        steps: optimizer steps; None if unknown.
        parameters: that train.
        tokens: of one sample; None if unknown.
        flops: of its training; None if unknown.
        nodes: machines it trains on.
        devices: of each machine.
        accelerator: that it asks for.
    """

    digest: str
    title: str
    after: str | None
    tested: bool
    steps: int | None
    parameters: int
    tokens: int | None
    flops: float | None
    nodes: int = 1
    devices: int = 1
    accelerator: str = "auto"


class SweepFolder:
    """The folder of a sweep.

    Args:
        root: where it is.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def run(self, digest: str) -> Path:
        """The folder of a run."""
        return self.root / "runs" / digest

    def state(self, digest: str) -> RunState:
        """Where a run stands."""
        return read_state(self.run(digest))

    def is_finished(self, run: Recorded) -> bool:
        """Whether nothing of a run is left to do."""
        state = self.state(run.digest)
        return state.phase == "finished" and state.fitted and (state.tested or not run.tested)

    def write(self, plan: Plan, launcher: Mapping[str, Any], retries: int) -> None:
        """Write down a plan, and a folder with its configuration for every run.

        Args:
            plan: checked.
            launcher: class and arguments of what starts the runs.
            retries: how often a run that fails is tried again.
        """
        for run in plan.runs.values():
            folder = self.run(run.digest)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "experiment.yaml").write_text(as_yaml(self.placed(run)), encoding="utf-8")
            record = {**asdict(recorded(run)), "retries": retries}
            write_json(folder / "run.json", record)
        tree = {
            "grid": asdict(plan.grid),
            "cells": [asdict(cell) for cell in plan.cells],
            "runs": {digest: asdict(recorded(run)) for digest, run in plan.runs.items()},
            "launcher": dict(launcher),
        }
        write_json(self.root / PLAN, tree)

    def read(self) -> tuple[Grid, list[Cell], dict[str, Recorded], dict[str, Any]]:
        """What was written down.

        Returns:
            The grid, its cells, its runs by digest, and the launcher's class and arguments.

        Raises:
            ConfigError: there is no sweep here.
        """
        tree = read_json(self.root / PLAN)
        if tree is None:
            raise ConfigError(f"{self.root}: holds no sweep; start one with vedit sweep FILE")
        cells = [Cell(**cell) for cell in tree["cells"]]
        runs = {digest: Recorded(**run) for digest, run in tree["runs"].items()}
        return grid_from(tree["grid"]), cells, runs, tree["launcher"]

    def placed(self, run: Run) -> Tree:
        """A run's configuration with its results going to its folder."""
        config = copy.deepcopy(run.config)
        folder = self.run(run.digest)
        config["name"] = run.digest
        trainer = config["trainer"]
        loggers = list(parts(trainer.get("logger")))
        if not loggers or loggers[0]["class_path"] != LOGGER:
            loggers.insert(0, {"class_path": LOGGER, "init_args": {"default_hp_metric": False}})
        first = loggers[0].setdefault("init_args", {})
        first |= {"save_dir": str(folder.parent), "name": run.digest, "version": ""}
        for logger in loggers[1:]:
            logger.setdefault("init_args", {})["save_dir"] = str(folder)
        trainer["logger"] = loggers if len(loggers) > 1 else loggers[0]
        for callback in parts(trainer.get("callbacks")):
            if callback["class_path"] == REPORT:
                callback.setdefault("init_args", {})["output"] = str(folder)
        if run.after is not None:
            model = config["model"]
            model = model["init_args"] if "class_path" in model else model
            model["init_from"] = str(self.run(run.after))
        return config


def recorded(run: Run) -> Recorded:
    """What is written down about a run."""
    from vedit.sweep.budget import devices

    trainer = run.config["trainer"]
    return Recorded(
        digest=run.digest,
        title=run.title,
        after=run.after,
        tested=run.tested,
        steps=run.steps,
        parameters=run.facts.parameters,
        tokens=run.facts.tokens,
        flops=run.flops,
        nodes=int(trainer.get("num_nodes") or 1),
        devices=devices(trainer),
        accelerator=str(trainer.get("accelerator", "auto")),
    )


def in_order(runs: Mapping[str, Recorded], wanted: Sequence[str]) -> list[Recorded]:
    """The wanted runs with those they start from, each after what it needs.

    Args:
        runs: by digest.
        wanted: digests.

    Returns:
        Each once.
    """
    found: dict[str, Recorded] = {}

    def add(digest: str) -> None:
        run = runs[digest]
        if run.after is not None:
            add(run.after)
        found.setdefault(digest, run)

    for digest in wanted:
        add(digest)
    return list(found.values())
