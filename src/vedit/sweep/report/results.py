"""What a sweep found: each cell over its seeds, next to the baseline and to what was published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vedit.sweep.records import Cell, Grid, Metric, Outcome, Published
from vedit.sweep.report.statistics import Estimate, estimate, holm, sign_flip_test, wilcoxon


@dataclass(frozen=True)
class Comparison:
    """A cell against the baseline, in one metric, on the same clips with the same seeds.

    Attributes:
        difference: mean over pairs of the cell's number minus the baseline's.
        pairs: of equal clip and seed; of equal seed where there are no numbers by clip.
        clips: that the pairs are of; 0 where there are no numbers by clip.
        permutation: p-value of the sign-flip test; None where there are no numbers by clip.
        wilcoxon: p-value of the signed-rank test; None likewise.
        adjusted: `permutation` after Holm's correction over the cells of the table; None likewise.
    """

    difference: float
    pairs: int
    clips: int = 0
    permutation: float | None = None
    wilcoxon: float | None = None
    adjusted: float | None = None


@dataclass(frozen=True)
class CellResult:
    """A cell over its seeds.

    Attributes:
        name: of the cell.
        label: its options in the words of the grid, without axes that do not vary.
        options: option by axis.
        baseline: whether the others are compared with it.
        outcomes: one for each seed, in the order of the seeds.
        estimates: by metric, over the seeds that have finished; those without numbers are missing.
        comparisons: with the baseline, by metric.
        published: for each of the grid's `published`, what it gives for this cell.
    """

    name: str
    label: str
    options: Mapping[str, str]
    baseline: bool
    outcomes: tuple[Outcome, ...]
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    published: tuple[Mapping[str, float], ...] = ()

    @property
    def finished(self) -> tuple[Outcome, ...]:
        """Those that ran to the end."""
        return tuple(o for o in self.outcomes if o.state == "finished")

    @property
    def progress(self) -> str:
        """Where the cell stands, in a few words; empty when all seeds have finished."""
        if self.outcomes and len(self.finished) == len(self.outcomes):
            return ""
        if self.finished:
            return f"{len(self.finished)} of {len(self.outcomes)} seeds"
        states = {outcome.state for outcome in self.outcomes}
        order = ("running", "failed", "cancelled", "waiting")
        return next((state for state in order if state in states), "waiting")


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
        grid: that was run.
        cells: in the order of the grid.
    """

    grid: Grid
    cells: tuple[CellResult, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that the table shows, in its order."""
        named = {metric.name: metric for metric in self.grid.metrics}
        return tuple(named[name] for name in self.grid.table.metrics or tuple(named))

    @property
    def varying(self) -> tuple[str, ...]:
        """Axes of which the cells do not all have the same option."""
        return varying(self.grid)

    def best(self, metric: Metric) -> frozenset[str]:
        """Names of the cells with the best mean, of those whose seeds have all finished.

        Args:
            metric: that says which direction is better; none is best if it does not.

        Returns:
            Several when their means read the same in the table; none where all cells do.
        """
        means = {
            cell.name: round(cell.estimates[metric.name].mean, metric.digits)
            for cell in self.cells
            if metric.name in cell.estimates and not cell.progress
            if math.isfinite(cell.estimates[metric.name].mean)
        }
        if metric.better is None or len(set(means.values())) < 2:
            return frozenset()
        best = (max if metric.better == "higher" else min)(means.values())
        return frozenset(name for name, mean in means.items() if mean == best)


def varying(grid: Grid) -> tuple[str, ...]:
    """Axes of which not all cells have the same option; every axis if there is one cell."""
    if len(grid.cells) == 1:
        return tuple(grid.axes)
    return tuple(axis for axis in grid.axes if len({choice.get(axis) for choice in grid.cells}) > 1)


def label_of(choice: Mapping[str, str], axes: Sequence[str]) -> str:
    """A choice in the words of its options.

    Args:
        choice: option by axis.
        axes: to name, in this order.

    Returns:
        The options' names; "base" if there are none.

    Examples:
        >>> label_of({"training": "LoRA", "source": "add"}, ["training", "source"])
        'LoRA · add'
    """
    return " · ".join(choice[axis] for axis in axes if axis in choice) or "base"


def results(grid: Grid, outcomes: Sequence[Outcome]) -> Results:
    """Average over seeds and compare with the baseline.

    Args:
        grid: that was run.
        outcomes: what became of its cells, in any order; one that is missing is waiting.

    Returns:
        A result for each choice of the grid.
    """
    by_choice = [_outcomes_of(choice, grid, outcomes) for choice in grid.cells]
    base = next((i for i, choice in enumerate(grid.cells) if choice == grid.baseline), None)
    cells = []
    for i, found in enumerate(by_choice):
        against = [] if base is None or i == base else by_choice[base]
        cells.append(
            CellResult(
                name=found[0].cell.name,
                label=label_of(grid.cells[i], varying(grid)),
                options=grid.cells[i],
                baseline=i == base,
                outcomes=found,
                estimates=_estimates(grid, found),
                comparisons=_comparisons(grid, found, against),
                published=tuple(_published(p, grid.cells[i]) for p in grid.published),
            )
        )
    return Results(grid, _corrected(grid, cells))


def compare(metric: str, found: Sequence[Outcome], base: Sequence[Outcome]) -> Comparison | None:
    """One cell against another, in pairs of equal clip and seed.

    Args:
        metric: its name.
        found: finished outcomes of the cell.
        base: those of the baseline.

    Returns:
        The comparison, not yet corrected; None without a pair.
    """
    by_seed = {outcome.cell.seed: outcome for outcome in base}
    pairs = [(o, by_seed[o.cell.seed]) for o in found if o.cell.seed in by_seed]
    units: dict[str, list[float]] = {}
    for one, other in pairs:
        mine, theirs = one.per_clip.get(metric, {}), other.per_clip.get(metric, {})
        for clip in mine:
            if clip in theirs:
                units.setdefault(clip, []).append(mine[clip] - theirs[clip])
    if units:
        listed = list(units.values())
        every = [difference for unit in listed for difference in unit]
        mean = estimate(every).mean
        if not math.isfinite(mean):  # a training that diverged
            return Comparison(mean, len(every), len(listed))
        return Comparison(mean, len(every), len(listed), sign_flip_test(listed), wilcoxon(listed))
    differences = [
        one.metrics[metric] - other.metrics[metric]
        for one, other in pairs
        if metric in one.metrics and metric in other.metrics
    ]
    return Comparison(estimate(differences).mean, len(differences)) if differences else None


def _outcomes_of(
    choice: Mapping[str, str], grid: Grid, outcomes: Sequence[Outcome]
) -> tuple[Outcome, ...]:
    found = {o.cell.seed: o for o in outcomes if o.cell.options == choice}
    name = next((o.cell.name for o in found.values()), label_of(choice, tuple(grid.axes)))
    return tuple(
        found.get(seed) or Outcome(Cell(name, choice, {}, seed, ""), "waiting")
        for seed in grid.seeds
    )


def _finished(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.state == "finished"]


def _estimates(grid: Grid, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    found = {}
    for metric in grid.metrics:
        values = [o.metrics[metric.name] for o in _finished(outcomes) if metric.name in o.metrics]
        if values:
            found[metric.name] = estimate(values)
    return found


def _comparisons(
    grid: Grid, found: Sequence[Outcome], base: Sequence[Outcome]
) -> dict[str, Comparison]:
    compared = {
        metric.name: compare(metric.name, _finished(found), _finished(base))
        for metric in grid.metrics
    }
    return {name: comparison for name, comparison in compared.items() if comparison is not None}


def _corrected(grid: Grid, cells: Sequence[CellResult]) -> tuple[CellResult, ...]:
    """The p-values of each metric, corrected for the number of cells that were tested."""
    comparisons = [dict(cell.comparisons) for cell in cells]
    for metric in grid.metrics:
        tested = [
            (here, comparison, comparison.permutation)
            for here in comparisons
            if (comparison := here.get(metric.name)) and comparison.permutation is not None
        ]
        for (here, comparison, _), value in zip(tested, holm([p for *_, p in tested]), strict=True):
            here[metric.name] = replace(comparison, adjusted=value)
    return tuple(
        replace(cell, comparisons=corrected)
        for cell, corrected in zip(cells, comparisons, strict=True)
    )


def _published(published: Published, options: Mapping[str, str]) -> Mapping[str, float]:
    values: dict[str, float] = {}
    for row in published.rows:
        if all(options.get(axis) == name for axis, name in row.options.items()):
            values |= row.values
    return values
