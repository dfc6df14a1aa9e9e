"""Which stretches of which clips a build starts from; each lies inside one shot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vedit.data.shots import Shot, cut_shots
from vedit.data.splits import clip_spans
from vedit.engine.build_config import BuildConfig
from vedit.engine.chance import integer, stream
from vedit.errors import DataError


@dataclass(frozen=True, order=True)
class Window:
    """Frames ``start, start + stride, ...`` of a clip."""

    clip: Path
    start: int
    stride: int


def choose_windows(config: BuildConfig) -> list[Window]:
    """Choose the source windows; each lies inside one shot.

    Args:
        config: How many, how long, at which strides, from which clips.

    Returns:
        ``config.windows`` of them.

    Raises:
        DataError: No shot of the split's clips is long enough.
    """
    runs: list[tuple[Path, int, list[Shot]]] = []  # one per clip and stride
    for clip, shots in _shots_by_clip(config).items():
        for stride in config.strides:
            length = (config.frames - 1) * stride + 1
            long = [Shot(s.start, s.stop - length + 1) for s in shots if len(s) >= length]
            if long:  # shots of starts, no longer of frames
                runs.append((clip, stride, long))
    if not runs:
        raise DataError(
            f"{config.clips}: no shot of split '{config.split}' is long enough for "
            f"{config.frames} frames at strides {config.strides}."
        )
    return _drawn(runs, config) if config.split == "train" else _spread(runs, config)


def _shots_by_clip(config: BuildConfig) -> dict[Path, list[Shot]]:
    shots: dict[Path, list[Shot]] = {}
    for clip, span in clip_spans(Path(config.clips), config.split):
        for shot in cut_shots(clip):
            start = max(shot.start, span.start)
            stop = shot.stop if span.stop is None else min(shot.stop, span.stop)
            if start < stop:
                shots.setdefault(clip, []).append(Shot(start, stop))
    return shots


def _drawn(runs: list[tuple[Path, int, list[Shot]]], config: BuildConfig) -> list[Window]:
    """Draw windows; every start is as likely, so long clips give more.

    They are sorted, so that a shard reads one stretch of a clip: training shuffles anyway.
    """
    generator = stream(config.seed, "windows")
    by_stride = {s: [r for r in runs if r[1] == s] for s in {r[1] for r in runs}}
    strides = [s for s in config.strides if s in by_stride]
    windows = []
    for _ in range(config.windows):
        chosen = by_stride[strides[integer(generator, len(strides))]]
        place = integer(generator, sum(len(s) for _, _, shots in chosen for s in shots))
        windows.append(_at(chosen, place))
    return sorted(windows)


def _spread(runs: list[tuple[Path, int, list[Shot]]], config: BuildConfig) -> list[Window]:
    """Take the clips in turn, the starts of each evenly spaced over its shots."""
    clips = sorted({clip for clip, _, _ in runs})
    windows = []
    for i in range(config.windows):
        turn, clip = divmod(i, len(clips))
        usable = [r for r in runs if r[0] == clips[clip]]
        run = usable[turn % len(usable)]
        turns = -(-(config.windows - clip) // len(clips))
        places = sum(map(len, run[2]))
        windows.append(_at([run], (2 * turn + 1) * places // (2 * turns)))
    return windows


def _at(runs: list[tuple[Path, int, list[Shot]]], place: int) -> Window:
    for clip, stride, shots in runs:
        for shot in shots:
            if place < len(shot):
                return Window(clip, shot.start + place, stride)
            place -= len(shot)
    raise IndexError(place)
