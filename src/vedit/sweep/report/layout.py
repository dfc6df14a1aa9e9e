"""The table of a sweep, laid out as its grid asks, whatever it is then written as."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vedit.sweep.records import Metric, Published
from vedit.sweep.report.results import CellResult, Comparison, Results
from vedit.sweep.report.statistics import Estimate

ARROWS = {"higher": "↑", "lower": "↓", None: ""}
NOTHING = "–"
DAGGER, DOUBLE = "†", "‡"


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        group: what it is of: options of the axes that vary across, or the paper it is from.
        title: metric.
        published: whether its figures are a paper's.
    """

    group: str
    title: str
    published: bool = False


@dataclass(frozen=True)
class Entry:
    """What stands in a column.

    Attributes:
        text: the figure, or where the cell stands.
        mark: of significance.
        note: what is missing from the figure; empty if nothing is.
        best: whether it is the best of its metric.
        figure: whether the text is a figure.
    """

    text: str
    mark: str = ""
    note: str = ""
    best: bool = False
    figure: bool = False


@dataclass(frozen=True)
class Line:
    """A row.

    Attributes:
        options: one for each axis that varies down.
        entries: one for each column.
        baseline: whether the baseline is in it.
    """

    options: tuple[str, ...]
    entries: tuple[Entry, ...]
    baseline: bool

    @property
    def names(self) -> list[str]:
        """The options, the first one marked if the baseline is in this row."""
        if not self.options or not self.baseline:
            return list(self.options)
        return [f"{self.options[0]} (base)", *self.options[1:]]


@dataclass(frozen=True)
class Sheet:
    """A table, ready to be written.

    Attributes:
        caption: what it shows.
        axes: that vary down.
        columns: of figures, those of papers last.
        lines: the rows.
        notes: what figures and marks mean, a sentence or two each.
    """

    caption: str
    axes: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


Choice = tuple[tuple[str, str], ...]
"""Options by axis, in a form that can be a key."""


def lay_out(found: Results) -> Sheet:
    """Lay the table out.

    Axes of which every cell has the same option are left out.

    Args:
        found: what the sweep found.

    Returns:
        The table.
    """
    grid = found.grid
    down = tuple(axis for axis in grid.table.rows if axis in found.varying)
    down = down or grid.table.rows[:1]
    across = tuple(axis for axis in grid.table.columns if axis in found.varying)
    groups = sorted(_choices(found.cells, across), key=partial(_places, found))
    cells = {(_choice(c, down), _choice(c, across)): c for c in found.cells}
    columns = [
        Column(_words(group), f"{metric.name} {ARROWS[metric.better]}".strip())
        for group in groups
        for metric in found.metrics
    ]
    papers = list(_papers(found, groups, across))
    best = {metric.name: found.best(metric) for metric in found.metrics}
    lines = []
    for row in _choices(found.cells, down):
        here = [cells.get((row, group)) for group in groups]
        entries = [
            _entry(cell, metric, best[metric.name]) for cell in here for metric in found.metrics
        ]
        entries += [_reprinted(here, paper) for paper in papers]
        baseline = any(cell is not None and cell.baseline for cell in here)
        chosen = dict(row)
        options = tuple(chosen.get(axis, NOTHING) for axis in down)
        lines.append(Line(options, tuple(entries), baseline))
    columns += [paper.column for paper in papers]
    caption = grid.table.caption or grid.title or grid.name
    return Sheet(caption, down, tuple(columns), tuple(lines), tuple(_notes(found)))


def figure(value: Estimate, digits: int) -> str:
    """A mean with its standard error.

    Args:
        value: the estimate.
        digits: after the decimal point.

    Returns:
        Text; without an error where there is none.

    Examples:
        >>> figure(Estimate(6.238, 0.104, 2), 2)
        '6.24 ± 0.10'
        >>> figure(Estimate(-1.5, None, 1), 1)
        '−1.5'
    """
    mean = signless_zero(f"{value.mean:.{digits}f}").replace("-", "−")
    return mean if value.error is None else f"{mean} ± {value.error:.{digits}f}"


def signless_zero(text: str) -> str:
    """A rounded number, without the minus that is left of a tiny one.

    Args:
        text: digits.

    Returns:
        The same digits.

    Examples:
        >>> signless_zero("-0.00"), signless_zero("-0.01")
        ('0.00', '-0.01')
    """
    return text.lstrip("-") if not text.strip("-0.") else text


def mark(comparison: Comparison | None) -> str:
    """The sign of significance: a dagger below 0.05 after correction, two below 0.01."""
    value = None if comparison is None else comparison.adjusted
    if value is None or value >= 0.05:
        return ""
    return DOUBLE if value < 0.01 else DAGGER


def heading(published: Published) -> str:
    """What stands over the columns of a paper's numbers."""
    return f"published: {published.source}"


@dataclass(frozen=True)
class _Paper:
    """A column of a paper's numbers, for the cells of some groups."""

    column: Column
    index: int
    name: str
    groups: tuple[int, ...]


def _papers(found: Results, groups: Sequence[Choice], across: Sequence[str]) -> Iterator[_Paper]:
    for index, published in enumerate(found.grid.published):
        names = dict.fromkeys(name for row in published.rows for name in row.values)
        apart = any(axis in row.options for row in published.rows for axis in across)
        for name in names:
            if not apart:
                column = Column(heading(published), name, True)
                yield _Paper(column, index, name, tuple(range(len(groups))))
                continue
            for place, group in enumerate(groups):
                title = ", ".join((name, *dict(group).values()))
                yield _Paper(Column(heading(published), title, True), index, name, (place,))


def _reprinted(cells: Sequence[CellResult | None], paper: _Paper) -> Entry:
    chosen = [cell for i in paper.groups if (cell := cells[i]) is not None]
    values = [
        cell.published[paper.index][paper.name]
        for cell in chosen
        if paper.name in cell.published[paper.index]
    ]
    return Entry(f"{values[0]:g}", figure=True) if values else Entry(NOTHING)


def _entry(cell: CellResult | None, metric: Metric, best: frozenset[str]) -> Entry:
    if cell is None:
        return Entry("")
    value = cell.estimates.get(metric.name)
    if value is None:
        return Entry(cell.progress or NOTHING)
    return Entry(
        text=figure(value, metric.digits),
        mark=mark(cell.comparisons.get(metric.name)),
        note=cell.progress,
        best=cell.name in best,
        figure=True,
    )


def _choice(cell: CellResult, axes: Sequence[str]) -> Choice:
    return tuple((axis, cell.options[axis]) for axis in axes if axis in cell.options)


def _choices(cells: Sequence[CellResult], axes: Sequence[str]) -> list[Choice]:
    return list(dict.fromkeys(_choice(cell, axes) for cell in cells))


def _places(found: Results, choice: Choice) -> list[int]:
    """Where a choice's options stand in the grid."""
    return [list(found.grid.axes[axis]).index(name) for axis, name in choice]


def _words(choice: Choice) -> str:
    return ", ".join(f"{axis}: {name}" for axis, name in choice)


def _notes(found: Results) -> Iterator[str]:
    grid = found.grid
    seeds = len(grid.seeds)
    if seeds > 1:
        yield f"Mean ± standard error over {seeds} seeds."
    else:
        yield f"One seed ({grid.seeds[0]}): how much trainings differ is not known."
    if any(cell.progress for cell in found.cells):
        yield "Not all runs have finished: figures are over those that have."
    compared = [c for cell in found.cells for c in cell.comparisons.values() if c.adjusted]
    base = next((cell for cell in found.cells if cell.baseline), None)
    if compared and base is not None:
        clips = max(comparison.clips for comparison in compared)
        yield (
            f"{DAGGER} p < 0.05, {DOUBLE} p < 0.01 against {base.label}: sign-flip "
            f"test paired by clip and seed ({clips} clips), after Holm's correction over the cells "
            "of the table. It asks whether a difference holds over clips for these very trainings."
        )
    for published in grid.published:
        note = published.note.strip()
        yield (
            f"Published, not measured here: {published.source}. {note + ' ' if note else ''}"
            "Other data, other scale, another measure: compare orders, not numbers."
        )
