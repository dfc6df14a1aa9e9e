"""From a grid to the runs it takes, every one of them composed, checked and built beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vedit.errors import ConfigError, VeditError
from vedit.sweep.budget import Costs, costs, steps_of
from vedit.sweep.experiments import Composition, Experiments, Facts, Tree
from vedit.sweep.metrics import missing_metric
from vedit.sweep.problems import Problems
from vedit.sweep.records import Cell, Grid, Stage

START = "model.init_from"


@dataclass(frozen=True)
class Run:
    """One training, and the test of what it made.

    Attributes:
        digest: names its content.
        title: in words.
        config: checked, not yet told where its results go.
        after: digest of the run it starts from; None if it starts by itself.
        tested: whether a test follows the training.
        steps: optimizer steps; None if it does not end by steps.
        facts: from building it.
        flops: operations of its training; None if unknown.
    """

    digest: str
    title: str
    config: Tree
    after: str | None
    tested: bool
    steps: int | None
    facts: Facts
    flops: float | None


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        grid: as read.
        cells: one for each choice and seed, choices first.
        runs: by digest; stages before the runs that start from them.
        trees: composed configuration by cell's name, for showing what differs.
    """

    grid: Grid
    cells: tuple[Cell, ...]
    runs: Mapping[str, Run]
    trees: Mapping[str, Tree] = field(default_factory=dict)

    def chain(self, digest: str) -> list[Run]:
        """A run with the runs before it, first one first."""
        run = self.runs[digest]
        return [*(self.chain(run.after) if run.after else []), run]


@dataclass(frozen=True)
class _Drafted:
    """A choice, composed at the first seed without a budget."""

    name: str
    choice: Mapping[str, str]
    stages: tuple[Stage, ...]
    facts: tuple[Facts, ...]
    costs: tuple[Costs, ...]


def make_plan(grid: Grid, experiments: Experiments) -> Plan:
    """Compose, check and build every cell.

    Args:
        grid: as read.
        experiments: composes and checks.

    Returns:
        The plan.

    Raises:
        GridErrors: with every mistake in any cell.
    """
    return _Planner(grid, experiments).plan()


def cell_name(choice: Mapping[str, str]) -> str:
    """A choice in words.

    Examples:
        >>> cell_name({"source": "channels", "finetune": "lora"})
        'source=channels,finetune=lora'
    """
    return ",".join(f"{axis}={name}" for axis, name in choice.items()) or "base"


def digest_of(config: Tree) -> str:
    """Names the content of a checked configuration: not its name, nor where it logs to.

    Examples:
        >>> digest_of({"name": "a", "model": {}}) == digest_of({"name": "b", "model": {}})
        True
    """
    trainer = {k: v for k, v in config.get("trainer", {}).items() if k != "logger"}
    content = {k: v for k, v in config.items() if k != "name"} | {"trainer": trainer}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Planner:
    def __init__(self, grid: Grid, experiments: Experiments) -> None:
        self.grid, self.experiments = grid, experiments
        self.problems = Problems(grid.file)
        self.runs: dict[str, Run] = {}
        self.trees: dict[str, Tree] = {}

    def plan(self) -> Plan:
        drafted = [d for d in map(self._draft, self.grid.cells) if d is not None]
        self.problems.stop()
        baseline = next(d for d in drafted if d.choice == self.grid.baseline)
        cells = [
            cell
            for draft in drafted
            for seed in self.grid.seeds
            if (cell := self._cell(draft, baseline, seed)) is not None
        ]
        self.problems.stop()
        return Plan(self.grid, tuple(cells), self.runs, self.trees)

    def _draft(self, choice: Mapping[str, str]) -> _Drafted | None:
        name = cell_name(choice)
        own = next((self._option(*o).stages for o in choice.items() if self._option(*o).stages), ())
        stages = (*own, Stage("last"))
        facts, prices = [], []
        for index in range(len(stages)):
            checked = self._checked(name, choice, stages, index, self.grid.seeds[0])
            if checked is None:
                return None
            found = self._built(name, checked)
            if found is None:
                return None
            facts.append(found)
            prices.append(costs(checked, found, stages[index].share))
        for metric in self.grid.metrics:
            if problem := missing_metric(metric, checked):
                self.problems.add(f"metrics.{metric.name}", problem)
        return _Drafted(name, choice, stages, tuple(facts), tuple(prices))

    def _cell(self, draft: _Drafted, baseline: _Drafted, seed: int) -> Cell | None:
        try:
            steps = steps_of(self.grid.budget, draft.costs, baseline.costs)
        except ConfigError as error:
            self.problems.add(f"cell {draft.name}", str(error))
            return None
        before: str | None = None
        for index, stage in enumerate(draft.stages):
            more = [] if steps[index] is None or self.grid.budget is None else _length(steps[index])
            more += [(START, before)] if before else []
            checked = self._checked(draft.name, draft.choice, draft.stages, index, seed, more)
            if checked is None:
                return None
            last = index == len(draft.stages) - 1
            title = f"{draft.name} seed {seed}" + ("" if last else f" {stage.name}")
            before = self._add(title, checked, before, last, steps[index], draft, index)
        assert before is not None
        overrides = dict(self._overrides(draft.choice))
        return Cell(draft.name, draft.choice, overrides, seed, before)

    def _add(
        self,
        title: str,
        checked: Tree,
        after: str | None,
        last: bool,
        steps: int | None,
        draft: _Drafted,
        index: int,
    ) -> str:
        digest = digest_of(checked)
        price = draft.costs[index].flops
        tested = last and bool(_data(checked).get("test"))
        tested |= digest in self.runs and self.runs[digest].tested
        flops = None if price is None or steps is None else price * steps
        self.runs[digest] = Run(
            digest, title, checked, after, tested, steps, draft.facts[index], flops
        )
        return digest

    def _checked(
        self,
        name: str,
        choice: Mapping[str, str],
        stages: Sequence[Stage],
        index: int,
        seed: int,
        more: Sequence[tuple[str, Any]] = (),
    ) -> Tree | None:
        """The checked configuration of a stage; None, with the mistake noted, if it is wrong."""
        stage = stages[index]
        files = [*self.grid.base]
        for option in choice.items():
            files += self._option(*option).files
        overrides = [*self.grid.overrides.items(), *self._overrides(choice)]
        overrides += [*stage.overrides.items(), *more]
        try:
            composed = self.experiments.compose([*files, *stage.files], overrides)
            composed = self._seeded(composed, [*files, *stage.files], overrides, seed)
            if index == len(stages) - 1:
                self.trees.setdefault(name, composed.tree)
            return self.experiments.check(composed)
        except VeditError as error:
            self._note(name, error)
            return None

    def _seeded(
        self,
        composed: Composition,
        files: Sequence[str],
        overrides: Sequence[tuple[str, Any]],
        seed: int,
    ) -> Composition:
        keys = ["seed_everything", "model.seed"]
        if "class_path" not in (composed.tree.get("data") or {}):
            keys.append("data.seed")
        return self.experiments.compose(files, [*overrides, *((key, seed) for key in keys)])

    def _built(self, name: str, checked: Tree) -> Facts | None:
        try:
            return self.experiments.facts(checked, self.grid.video)
        except VeditError as error:
            self._note(name, error)
            return None

    def _note(self, name: str, error: VeditError) -> None:
        """A mistake of the base is told once; one of options, with the cell."""
        line = " ".join(str(error).split())
        own = line.removeprefix("command line: ")
        if own != line or not line.startswith(tuple(self.grid.base)):
            self.problems.add(f"cell {name}", own)
        else:
            self.problems.note(line)

    def _option(self, axis: str, name: str) -> Any:
        return self.grid.axes[axis][name]

    def _overrides(self, choice: Mapping[str, str]) -> list[tuple[str, Any]]:
        return [pair for o in choice.items() for pair in self._option(*o).overrides.items()]


def _length(steps: int | None) -> list[tuple[str, Any]]:
    return [("trainer.max_steps", steps)]


def _data(checked: Tree) -> Tree:
    data: Tree = checked.get("data") or {}
    return data.get("init_args") or {} if "class_path" in data else data
