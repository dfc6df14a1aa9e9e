"""The same clips, as every cell edited them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vedit.errors import VeditError
from vedit.evaluation.page import filmstrip
from vedit.sweep.records import Outcome
from vedit.sweep.report.results import Results


@dataclass(frozen=True)
class Picture:
    """A film strip.

    Attributes:
        title: whose it is.
        image: as a data URI; empty where there is none.
        video: the sample clip it is from; None for source and target.
        note: figures, or why there is no image.
    """

    title: str
    image: str
    video: Path | None = None
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """One sample.

    Attributes:
        clip: its source.
        edit: what was asked for.
        given: source and exact target.
        made: by each cell, in the order of the grid.
    """

    clip: str
    edit: str
    given: tuple[Picture, ...]
    made: tuple[Picture, ...]


def side_by_side(found: Results, most: int = 8) -> list[Shown]:
    """Some samples as every cell edited them, each cell by its first finished seed.

    One sample of each edit, going through the clips in turn: chosen by name alone, so that no
    cell's results have a say in it.

    Args:
        found: what the sweep found.
        most: samples to show at most.

    Returns:
        The samples; none if no run kept any.
    """
    first = {cell.name: cell.finished[0] for cell in found.cells if cell.finished}
    shown = []
    for key in choose(list(first.values()), most):
        one = _shown(key, found, first)
        if one is not None:
            shown.append(one)
    return shown


def choose(outcomes: Sequence[Outcome], most: int) -> list[str]:
    """The samples to show, of those that all outcomes have: one of each edit, clips in turn.

    Args:
        outcomes: one of each cell.
        most: how many.

    Returns:
        Keys, each "clip/edit".
    """
    every = [set().union(*map(set, outcome.per_clip.values())) for outcome in outcomes]
    common = sorted(set.intersection(*every)) if every else []
    clips: dict[str, list[str]] = {}  # by edit
    for key in common:
        clip, _, edit = key.partition("/")
        clips.setdefault(edit, []).append(clip)
    chosen = []
    for number, (edit, there) in enumerate(clips.items()):
        chosen.append(f"{there[number % len(there)]}/{edit}")
    return chosen[:most]


def sample_video(outcome: Outcome, key: str) -> Path:
    """Where a run keeps the sample clip of that key: source, edit and target side by side."""
    clip, _, edit = key.partition("/")
    return outcome.folder / "samples" / f"{clip}-{edit}.mp4".replace(" ", "_")


def thirds(path: Path) -> tuple[Tensor, Tensor, Tensor] | None:
    """Source, edit and target of a sample clip, uint8 (F, H, W, 3) each; None if it is none."""
    from vedit.video import read_video

    if not path.is_file():
        return None
    try:
        frames = read_video(path).frames
    except VeditError:
        return None
    width, rest = divmod(frames.shape[2], 3)
    if rest:
        return None
    source, edit, target = frames.split(width, dim=2)
    return source, edit, target


def _shown(key: str, found: Results, first: dict[str, Outcome]) -> Shown | None:
    clip, _, edit = key.partition("/")
    given: tuple[Picture, ...] = ()
    made = []
    for cell in found.cells:
        outcome = first.get(cell.name)
        if outcome is None:
            made.append(Picture(cell.label, "", note=cell.progress))
            continue
        path = sample_video(outcome, key)
        parts = thirds(path)
        if parts is None:
            made.append(Picture(cell.label, "", note="no sample was kept"))
            continue
        source, output, target = parts
        if not given:
            given = (Picture("source", filmstrip(source)), Picture("target", filmstrip(target)))
        made.append(Picture(cell.label, filmstrip(output), path, _figures(found, outcome, key)))
    return Shown(clip, edit, given, tuple(made)) if given else None


def _figures(found: Results, outcome: Outcome, key: str) -> str:
    parts = [
        f"{metric.name} {outcome.per_clip[metric.name][key]:.{metric.digits}f}".replace("-", "−")
        for metric in found.metrics
        if key in outcome.per_clip.get(metric.name, {})
    ]
    if outcome.cell.seed != found.grid.seeds[0]:
        parts.append(f"seed {outcome.cell.seed}")
    return " · ".join(parts)
