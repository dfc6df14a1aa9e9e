"""The page that shows a sweep: one HTML file with everything in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from vedit.evaluation.curve import curve_svg
from vedit.evaluation.page import environment
from vedit.sweep.report.clips import Picture, Shown, side_by_side
from vedit.sweep.report.curves import cell_curves, seeds_svg
from vedit.sweep.report.data import mean_cost
from vedit.sweep.report.layout import Sheet, mark
from vedit.sweep.report.markdown import chance, signed
from vedit.sweep.report.results import CellResult, Results

UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def page(found: Results, sheet: Sheet, folder: Path) -> str:
    """Render the page.

    Args:
        found: what the sweep found.
        sheet: its table.
        folder: that the page will lie in; links are relative to it.

    Returns:
        HTML that needs nothing from elsewhere but the videos that it links to.
    """
    curves = cell_curves(found.cells)
    labels = [cell.label for cell in found.cells]
    # A cell keeps its colour in every picture, whichever cells the picture lacks.
    drawn = {
        name: curve_svg({label: cells.get(label, []) for label in labels})
        for name, cells in curves.items()
    }
    seeds = [(m.name, seeds_svg(found.cells, m)) for m in found.metrics]
    template = environment("vedit.sweep.report").get_template("sweep.html.j2")
    return template.render(
        found=found,
        sheet=sheet,
        base=next((cell for cell in found.cells if cell.baseline), None),
        groups=[(g, len(list(members))) for g, members in groupby(sheet.columns, _group)],
        published=[column.published for column in sheet.columns],
        tests=_tests(found),
        costs=[_cost(cell) for cell in found.cells],
        curves={name: svg for name, svg in drawn.items() if svg},
        keys=list(enumerate(labels)),
        seeds=[(name, svg) for name, svg in seeds if svg],
        clips=[_linked(shown, folder) for shown in side_by_side(found)],
        runs=[(cell.label, outcome) for cell in found.cells for outcome in cell.outcomes],
        palette=_PALETTE,
    )


def scaled(value: float | None) -> str:
    """A large number with a prefix.

    Args:
        value: None if unknown.

    Returns:
        Three digits and the prefix.

    Examples:
        >>> scaled(6.4e8), scaled(2.5e15), scaled(None), scaled(84)
        ('640 M', '2.5 P', '–', '84')
    """
    if value is None:
        return "–"
    for size, prefix in UNITS:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


# Light and dark, told apart with the common colour deficiencies too (after Okabe and Ito).
_PALETTE = (
    ("#0b6e69", "#5cc2ba"), ("#b4632a", "#e0a06c"), ("#3b5ba9", "#8fabf0"),
    ("#a3367a", "#e08cc4"), ("#7a7a17", "#cfcf6a"), ("#5d5d5d", "#b9b9b9"),
    ("#1f83b8", "#74c7f2"), ("#8a4b3c", "#d69a8a"),
)  # fmt: skip


def _group(column: Any) -> tuple[str, bool]:
    return column.group, column.published


def _tests(found: Results) -> list[dict[str, Any]]:
    """Every comparison with the baseline, as text."""
    return [
        {
            "label": cell.label,
            "metric": metric.name,
            "difference": signed(comparison.difference, metric.digits),
            "better": _is_better(comparison.difference, metric.better),
            "pairs": comparison.pairs,
            "clips": comparison.clips,
            "permutation": chance(comparison.permutation),
            "wilcoxon": chance(comparison.wilcoxon),
            "adjusted": chance(comparison.adjusted),
            "mark": mark(comparison),
        }
        for metric in found.metrics
        for cell in found.cells
        if (comparison := cell.comparisons.get(metric.name)) is not None
    ]


def _is_better(difference: float, better: str | None) -> bool | None:
    if better is None or difference == 0:
        return None
    return (difference > 0) == (better == "higher")


def _cost(cell: CellResult) -> dict[str, Any]:
    return {
        "label": cell.label,
        "parameters": scaled(mean_cost(cell.outcomes, "parameters")),
        "tokens": scaled(mean_cost(cell.outcomes, "tokens")),
        "flops": scaled(mean_cost(cell.outcomes, "flops")),
        "seconds": mean_cost(cell.finished, "seconds"),
    }


def _linked(shown: Shown, folder: Path) -> dict[str, Any]:
    return {
        "clip": shown.clip,
        "edit": shown.edit,
        "pictures": [*_pictures(shown.given, folder), *_pictures(shown.made, folder)],
    }


def _pictures(pictures: Sequence[Picture], folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "title": picture.title,
            "image": picture.image,
            "note": picture.note,
            "video": "" if picture.video is None else _relative(picture.video, folder),
        }
        for picture in pictures
    ]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
