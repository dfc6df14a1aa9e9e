"""What became of the cells of a sweep, read from its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vedit.sweep.folder import Recorded, SweepFolder, in_order
from vedit.sweep.launchers.base import Queued
from vedit.sweep.metrics import read_metrics, read_report, read_samples
from vedit.sweep.records import Cell, Metric, Outcome, State
from vedit.sweep.state import RunState, is_alive
from vedit.sweep.worker import tail

_STEP = re.compile(r"step (\d+)(?:/(\d+))?(.*)")
_LOSS = re.compile(r"train/loss (\S+)")
_LEFT = re.compile(r"(\d+:\d\d:\d\d) left")


@dataclass(frozen=True)
class Progress:
    """Where a training stands, as its log tells.

    Attributes:
        step: optimizer steps done.
        total: steps in all; None if unknown.
        loss: the last one told; None if none was.
        left: time left as h:mm:ss; empty if unknown.
    """

    step: int
    total: int | None = None
    loss: float | None = None
    left: str = ""


def collect(
    folder: str | Path, queued: Mapping[str, Queued] | None = None, curves: bool = True
) -> list[Outcome]:
    """What became of every cell.

    Args:
        folder: of the sweep.
        queued: what a launcher's queue says, by digest.
        curves: whether to read the numbers of runs, which takes a while, or only how they stand.

    Returns:
        One for each cell and seed, in the grid's order.

    Raises:
        ConfigError: there is no sweep here.
    """
    sweep = SweepFolder(folder)
    grid, cells, runs, _ = sweep.read()
    metrics = grid.metrics if curves else ()
    return [_outcome(sweep, cell, runs, metrics, queued or {}) for cell in cells]


def progress(folder: Path) -> Progress | None:
    """Where a run's training stands; None if its log does not tell."""
    for line in reversed(tail(folder / "log.txt").splitlines()):
        if line.startswith("$ "):
            return None
        if found := _STEP.match(line.strip()):
            step, total, rest = found.groups()
            loss, left = _LOSS.search(rest), _LEFT.search(rest)
            return Progress(
                int(step),
                int(total) if total else None,
                float(loss.group(1)) if loss else None,
                left.group(1) if left else "",
            )
    return None


def _outcome(
    sweep: SweepFolder,
    cell: Cell,
    runs: Mapping[str, Recorded],
    metrics: Sequence[Metric],
    queued: Mapping[str, Queued],
) -> Outcome:
    chain = in_order(runs, [cell.digest])
    current = next((run for run in chain if not sweep.is_finished(run)), chain[-1])
    state, note = _standing(sweep, current, queued.get(current.digest))
    folder = sweep.run(cell.digest)
    seconds = sum(sweep.state(run.digest).seconds for run in chain)
    flops = [run.flops for run in chain]
    done = state == "finished"
    return Outcome(
        cell=cell,
        state=state,
        metrics=read_metrics(folder, tuple(metrics)) if done else {},
        per_clip=read_samples(folder, tuple(metrics)) if done else {},
        folder=folder,
        seconds=_trained(folder, seconds) if done and len(chain) == 1 else seconds,
        parameters=chain[-1].parameters,
        tokens=chain[-1].tokens,
        flops=sum(f for f in flops if f is not None) if None not in flops else None,
        note=note if current is chain[-1] or not note else f"{_stage(current, cell)}: {note}",
    )


def _standing(sweep: SweepFolder, run: Recorded, queued: Queued | None) -> tuple[State, str]:
    """The state of a run and a line about it."""
    state = sweep.state(run.digest)
    folder = sweep.run(run.digest)
    if sweep.is_finished(run):
        return "finished", ""
    if queued is not None and queued.phase == "cancelled":
        return "cancelled", queued.note
    if queued is not None and queued.phase in ("waiting", "running"):
        if queued.phase == "running" and state.phase == "running":
            return "running", "; ".join(filter(None, [_doing(folder, state, run), queued.note]))
        return "waiting" if queued.phase == "waiting" else "running", queued.note or "starts"
    if state.phase in ("failed", "cancelled"):
        return ("failed", state.note) if state.phase == "failed" else ("cancelled", "")
    if state.phase == "running" and is_alive(folder, state):
        return "running", _doing(folder, state, run)
    if queued is not None:  # it left the queue without a result
        return "failed", queued.note or "left the queue without a result"
    if state.phase in ("running", "interrupted"):
        return "waiting", "was killed" if state.phase == "running" else state.note or "interrupted"
    return "waiting", ""


def _doing(folder: Path, state: RunState, run: Recorded) -> str:
    if state.fitted:
        return "tests" if run.tested else ""
    at = progress(folder)
    if at is None:
        return state.note or "starts"
    parts = [f"step {at.step}" + (f"/{at.total}" if at.total else "")]
    parts += [f"loss {at.loss:.4g}"] if at.loss is not None else []
    parts += [f"{at.left} left"] if at.left else []
    return "  ".join(parts)


def _stage(run: Recorded, cell: Cell) -> str:
    return run.title.rpartition(f"seed {cell.seed} ")[2]


def _trained(folder: Path, otherwise: float) -> float:
    """Time in training alone, which the report knows, without starting up."""
    seconds = read_report(folder).get("train_seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else otherwise
