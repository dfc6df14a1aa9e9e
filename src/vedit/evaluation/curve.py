"""A loss curve: read from what a run logged, drawn as SVG."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Points = list[tuple[int, float]]

_WIDTH, _HEIGHT = 1060, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_BINS = 180  # a curve of more points than this shows their means


def read_losses(
    folder: str | Path, names: Sequence[str] = ("train/loss", "val/loss")
) -> dict[str, Points]:
    """Read curves from the TensorBoard events or ``metrics.csv`` below a run's folder.

    Args:
        folder: Of the run.
        names: Of the curves.

    Returns:
        (step, loss) in order of steps, for the curves there are. Later files win, so that the
        steps a resumed run repeated count once.
    """
    folder = Path(folder)
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for path in sorted(folder.rglob("metrics.csv"), key=lambda p: p.stat().st_mtime):
        _read_csv(path, found)
    events = sorted(folder.rglob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime)
    for path in events:
        _read_events(path, found)
    return {name: sorted(points.items()) for name, points in found.items() if points}


def smoothed(points: Points, bins: int = _BINS) -> Points:
    """Means over equal runs of points.

    Args:
        points: (step, loss) in order of steps.
        bins: Points to return at most.

    Returns:
        (step, mean loss) in order of steps.

    Examples:
        >>> smoothed([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], bins=2)
        [(0, 2.0), (2, 6.0)]
    """
    size = max(1, math.ceil(len(points) / bins))
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(run[len(run) // 2 - (len(run) % 2 == 0)][0], _mean(run)) for run in runs]


def curve_svg(curves: Mapping[str, Points]) -> str:
    """Draw curves over the steps, losses on a logarithmic scale; empty without curves.

    Each curve's classes are numbered by its place among those given, drawn or not.
    """
    drawn = {
        name: smoothed([(s, v) for s, v in points if math.isfinite(v) and v > 0])
        for name, points in curves.items()
    }
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    steps = [step for points in drawn.values() for step, _ in points]
    losses = [math.log10(loss) for points in drawn.values() for _, loss in points]
    last = max(steps) or 1
    low, high = _padded(min(losses), max(losses))

    def x(step: float) -> float:
        return _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)

    def y(loss: float) -> float:
        share = (math.log10(loss) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Loss over {last} steps">'
    ]
    for loss in _ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(loss):.1f}" '
            f'y2="{y(loss):.1f}"/><text class="tick" x="{_LEFT - 8}" y="{y(loss) + 4:.1f}" '
            f'text-anchor="end">{loss:g}</text>'
        )
    for step in (0, last // 2, last):
        anchor = {0: "start", last: "end"}.get(step, "middle")
        parts.append(
            f'<text class="tick" x="{x(step):.1f}" y="{_HEIGHT - 8}" '
            f'text-anchor="{anchor}">{step:,}</text>'.replace(",", " ")
        )
    numbers = {name: number for number, name in enumerate(curves)}
    for name, points in drawn.items():
        number = numbers[name]
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in points)
        parts.append(f'<polyline class="line line-{number}" points="{path}"/>')
        if len(points) == 1:
            parts.append(
                f'<circle class="dot-{number}" r="3" cx="{x(points[0][0]):.1f}" '
                f'cy="{y(points[0][1]):.1f}"/>'
            )
    parts.append("</svg>")
    return "".join(parts)


def _read_csv(path: Path, found: dict[str, dict[int, float]]) -> None:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, points in found.items():
                if row.get(name) and row.get("step"):
                    points[int(float(row["step"]))] = float(row[name])


def _read_events(path: Path, found: dict[str, dict[int, float]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})
    accumulator.Reload()
    there = accumulator.Tags()["scalars"]
    for name, points in found.items():
        if name in there:
            points.update({e.step: e.value for e in accumulator.Scalars(name)})


def _mean(points: Points) -> float:
    return sum(value for _, value in points) / len(points)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = max(0.02, (high - low) * 0.06)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round losses between two powers of ten: three to six of them."""
    found: list[float] = []
    for digits in (
        (1,),
        (1, 3),
        (1, 2, 5),
        (1, 1.5, 2, 3, 5, 7),
        tuple(d / 10 for d in range(10, 100)),
    ):
        found = [
            digit * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit) + power <= high
        ]
        if len(found) >= 3:
            break
    return found[:: max(1, len(found) // 5)]
