"""Where a film cuts: windows for training never straddle two shots.

A cut at frame i shows as a mean absolute luma difference to frame i - 1 that is large in itself
and towers over its neighbours, so that fast motion alone is no cut.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vedit.errors import DataError
from vedit.video import iter_luma

_ROWS = 90  # luma is sampled down to about this many rows
_CACHE_VERSION = 1


@dataclass(frozen=True, order=True)
class Shot:
    """Frames ``start`` to ``stop - 1`` of one uninterrupted take."""

    start: int
    stop: int

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.stop - self.start


@dataclass(frozen=True)
class CutRule:
    """When a difference between neighbouring frames counts as a cut.

    Attributes:
        least: Smallest mean absolute difference, in grey levels of 255.
        ratio: The difference must exceed this many times the largest one nearby.
        reach: How many differences on each side are "nearby".
        floor: The largest one nearby counts as at least this, so still scenes do not cut.
    """

    least: float = 12.0
    ratio: float = 3.0
    reach: int = 6
    floor: float = 2.0


def frame_differences(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Mean absolute difference of each frame, uint8 (H, W), to the one before: (F - 1,)."""
    differences = []
    before: np.ndarray | None = None
    for frame in frames:
        now = frame.astype(np.int16)
        if before is not None:
            differences.append(np.abs(now - before).mean())
        before = now
    return np.asarray(differences, dtype=np.float64)


def find_cuts(differences: np.ndarray, rule: CutRule = CutRule()) -> list[int]:  # noqa: B008
    """Return the first frame of every shot but the first."""
    cuts = []
    for i in np.flatnonzero(differences > rule.least):
        around = np.concatenate(
            [differences[max(0, i - rule.reach) : i], differences[i + 1 : i + 1 + rule.reach]]
        )
        nearby = max(rule.floor, float(around.max(initial=0.0)))
        if differences[i] > rule.ratio * nearby:
            cuts.append(int(i) + 1)
    return cuts


def cut_shots(
    video: str | Path | Iterable[np.ndarray],
    rule: CutRule = CutRule(),  # noqa: B008
    cache: bool = True,
) -> list[Shot]:
    """Split a video into shots.

    Args:
        video: A file, or its luma frames, uint8 (H, W) each.
        rule: What counts as a cut.
        cache: Keep the result of a file beside it, as ``NAME.shots.json``, and use it again as
            long as the file and the rule are the same.

    Returns:
        Ranges of frames that cover the video without a gap.

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    if not isinstance(video, str | Path):
        return _shots(frame_differences(video), rule)
    path = Path(video)
    if cache and (known := _read_cache(path, rule)) is not None:
        return known
    shots = _shots(frame_differences(_sampled(path)), rule)
    if cache:
        _write_cache(path, rule, shots)
    return shots


def split_shots(
    shots: list[Shot], held_out: int, least: int = 33, end: int | None = None
) -> tuple[list[Shot], list[Shot]]:
    """Split a film in time: everything from the last ``held_out`` real shots on is held out.

    Args:
        shots: All shots, in order.
        held_out: How many shots of at least ``least`` frames to hold out.
        least: Shorter shots do not count (they go with their neighbours).
        end: Where the film proper ends (credits after it are held out, but do not count).

    Returns:
        The shots before the boundary, and those from it on.

    Raises:
        DataError: The film has fewer such shots.
    """
    counted = [s for s in shots if len(s) >= least and (end is None or s.stop <= end)]
    if held_out < 1 or held_out > len(counted):
        raise DataError(
            f"held-out shots: {held_out} asked, the film has {len(counted)} of {least} frames."
        )
    boundary = counted[-held_out].start
    return [s for s in shots if s.start < boundary], [s for s in shots if s.start >= boundary]


def _shots(differences: np.ndarray, rule: CutRule) -> list[Shot]:
    edges = [0, *find_cuts(differences, rule), len(differences) + 1]
    return [Shot(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def _sampled(path: Path) -> Iterator[np.ndarray]:
    for luma in iter_luma(path):
        step = max(1, round(luma.shape[0] / _ROWS))
        yield luma[step // 2 :: step, step // 2 :: step]


# --- cache ---------------------------------------------------------------------------------


def _cache_path(path: Path) -> Path:
    return path.with_name(path.name + ".shots.json")


def _stamp(path: Path, rule: CutRule) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"version": _CACHE_VERSION, "sha256": digest, "rule": asdict(rule)}


def _read_cache(path: Path, rule: CutRule) -> list[Shot] | None:
    try:
        stored = json.loads(_cache_path(path).read_text())
        shots = [Shot(int(a), int(b)) for a, b in stored.pop("shots")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or damaged: compute it again
    return shots if path.is_file() and stored == _stamp(path, rule) else None


def _write_cache(path: Path, rule: CutRule, shots: list[Shot]) -> None:
    partial = _cache_path(path).with_suffix(".partial")
    content = {**_stamp(path, rule), "shots": [[s.start, s.stop] for s in shots]}
    try:
        partial.write_text(json.dumps(content))
        os.replace(partial, _cache_path(path))
    except OSError:
        return  # a read-only folder costs time, not correctness
