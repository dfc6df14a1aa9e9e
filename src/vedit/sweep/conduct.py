"""Carry a sweep out, look at it, report on it, stop it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from vedit.data.lock import check_free, writing
from vedit.errors import ConfigError, DataError
from vedit.sweep.collect import collect
from vedit.sweep.folder import SweepFolder, in_order
from vedit.sweep.launchers.base import Launcher
from vedit.sweep.plan import Plan
from vedit.sweep.records import Outcome
from vedit.sweep.serial import read_json
from vedit.sweep.state import write_json, write_state
from vedit.sweep.table import Live, standing

OWNER = "owner.json"


def conduct(
    plan: Plan, folder: SweepFolder, digests: Sequence[str], chosen: Mapping[str, Any], retries: int
) -> int:
    """Run what is left of a plan, and report.

    Args:
        plan: checked.
        folder: of the sweep.
        digests: of the cells to run.
        chosen: class and arguments of the launcher.
        retries: how often a run that fails is tried again.

    Returns:
        0 if these cells have finished, 1 if one failed.

    Raises:
        DataError: another process works in the folder.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with writing(folder.root, "vedit sweep"):
        write_json(folder.root / OWNER, {"process": os.getpid(), "host": socket.gethostname()})
        folder.write(plan, chosen, retries)
        _, _, runs, _ = folder.read()
        todo = [run for run in in_order(runs, digests) if not folder.is_finished(run)]
        launcher = make_launcher(chosen)
        live = Live(lambda: outcomes_of(folder, launcher, curves=False), every=launcher.look_every)
        if todo:
            try:
                launcher.launch(folder, todo, live.tick)
            finally:
                live.tick(now=True)
        report(folder)
    states = {o.cell.digest: o.state for o in collect(folder.root, curves=False)}
    return 1 if any(states[digest] == "failed" for digest in digests) else 0


def status(folder: SweepFolder) -> int:
    """Print where the cells stand.

    Args:
        folder: of the sweep.

    Returns:
        0.
    """
    *_, chosen = folder.read()
    print("\n".join(standing(outcomes_of(folder, make_launcher(chosen), curves=False))))
    return 0


def report(folder: SweepFolder) -> int:
    """Write the tables of a sweep from what its folder holds, and print the main one.

    Args:
        folder: of the sweep.

    Returns:
        0.
    """
    from vedit.sweep.report import write_report

    grid, *_ = folder.read()
    print(write_report(grid, collect(folder.root), folder.root))
    return 0


def cancel(folder: SweepFolder) -> int:
    """Stop a sweep and whatever of it runs.

    Args:
        folder: of the sweep.

    Returns:
        0.

    Raises:
        ConfigError: the sweep runs on another machine, or does not stop.
    """
    _, cells, runs, chosen = folder.read()
    todo = [r for r in in_order(runs, [c.digest for c in cells]) if not folder.is_finished(r)]
    _stop_sweep(folder)
    make_launcher(chosen).cancel(folder, todo)
    for run in todo:
        if not folder.is_finished(run) and folder.state(run.digest).phase != "failed":
            write_state(folder.run(run.digest), phase="cancelled", note="")
    print(f"{sum(not folder.is_finished(run) for run in todo)} runs cancelled", file=sys.stderr)
    return status(folder)


def outcomes_of(folder: SweepFolder, launcher: Launcher, curves: bool) -> list[Outcome]:
    """What became of every cell, the launcher's queue asked too.

    Args:
        folder: of the sweep.
        launcher: of the sweep.
        curves: whether to read the numbers of runs.

    Returns:
        One for each cell and seed.
    """
    _, cells, runs, _ = folder.read()
    open_ = [r for r in in_order(runs, [c.digest for c in cells]) if not folder.is_finished(r)]
    return collect(folder.root, launcher.queued(folder, open_), curves)


def make_launcher(chosen: Mapping[str, Any]) -> Launcher:
    """The launcher of that class and with those arguments."""
    module, _, name = str(chosen["class_path"]).rpartition(".")
    made: Launcher = getattr(import_module(module), name)(**(chosen.get("init_args") or {}))
    return made


def _stop_sweep(folder: SweepFolder, patience: float = 90.0) -> None:
    """Interrupt the process that carries the sweep out, and wait until it has ended."""
    until = time.monotonic() + patience
    told = False
    while time.monotonic() < until:
        try:
            return check_free(folder.root)
        except DataError as error:
            owner = read_json(folder.root / OWNER) or {}
            if owner.get("host") != socket.gethostname():
                raise ConfigError(f"{error} Cancel it there") from error
            if not told:
                # Not SIGINT, which what a shell put in the background does not hear.
                os.kill(int(owner["process"]), signal.SIGTERM)
                told = True
        time.sleep(0.2)
    raise ConfigError(f"{folder.root}: the sweep does not stop; see {OWNER} for its process")
