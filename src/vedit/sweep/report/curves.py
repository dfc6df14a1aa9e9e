"""Learning curves of cells, and where each seed ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from vedit.evaluation.curve import Points, read_losses
from vedit.sweep.records import Metric
from vedit.sweep.report.layout import signless_zero
from vedit.sweep.report.results import CellResult

LOSSES = ("train/loss", "val/loss")

_WIDTH, _ROW, _TOP, _BOTTOM, _LEFT, _RIGHT = 520, 26, 8, 26, 176, 32


def cell_curves(cells: Sequence[CellResult]) -> dict[str, dict[str, Points]]:
    """The loss curves of cells, each the mean over the seeds at the steps that all of them have.

    Args:
        cells: with the folders of their runs.

    Returns:
        Curve by cell's label by loss; a cell that has logged nothing has none.
    """
    found: dict[str, dict[str, Points]] = {name: {} for name in LOSSES}
    for cell in cells:
        runs = [read_losses(o.folder, LOSSES) for o in cell.outcomes if o.folder.name]
        for name, curves in found.items():
            there = [run[name] for run in runs if name in run]
            if there and (points := mean_curve(there)):
                curves[cell.label] = points
    return {name: curves for name, curves in found.items() if curves}


def mean_curve(curves: Sequence[Points]) -> Points:
    """The mean of curves where all of them have a point.

    Args:
        curves: (step, value) each, at least one.

    Returns:
        (step, mean) in order of steps.

    Examples:
        >>> mean_curve([[(0, 1.0), (10, 2.0)], [(0, 3.0), (10, 4.0), (20, 5.0)]])
        [(0, 2.0), (10, 3.0)]
    """
    tables = [dict(points) for points in curves]
    steps = sorted(set.intersection(*map(set, tables)))
    return [(step, math.fsum(t[step] for t in tables) / len(tables)) for step in steps]


def seeds_svg(cells: Sequence[CellResult], metric: Metric) -> str:
    """Every seed's number as a dot, the mean as a bar, one row for each cell.

    Args:
        cells: to show; those without a number are left out.
        metric: whose numbers.

    Returns:
        SVG; empty without numbers.
    """
    rows = [
        (cell, values)
        for cell in cells
        if (values := [o.metrics[metric.name] for o in cell.finished if metric.name in o.metrics])
        and all(map(math.isfinite, values))
    ]
    if not rows:
        return ""
    every = [value for _, values in rows for value in values]
    low, high = _padded(min(every), max(every))
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts = [
        f'<svg class="seeds" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(metric.name)} of every seed">'
    ]
    for value in (low, (low + high) / 2, high):
        label = signless_zero(f"{value:.{metric.digits}f}").replace("-", "−")
        parts.append(
            f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" '
            f'y2="{height - _BOTTOM}"/><text class="tick" x="{x(value):.1f}" '
            f'y="{height - 8}" text-anchor="middle">{label}</text>'
        )
    for i, (cell, values) in enumerate(rows):
        y = _TOP + _ROW * (i + 0.5)
        mean = x(math.fsum(values) / len(values))
        style = ' class="base"' if cell.baseline else ""
        parts.append(
            f'<text x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end"{style}>'
            f"{escape(_short(cell.label))}</text>"
            f'<line class="mean" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 8:.1f}" '
            f'y2="{y + 8:.1f}"/>'
        )
        parts += [f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="3.5"/>' for value in values]
    return "".join([*parts, "</svg>"])


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.08 or abs(high) * 0.08 or 1.0
    return low - margin, high + margin


def _short(text: str, length: int = 26) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
