"""Means with errors, paired tests, and their correction for having tested often.

Differences are given by unit: the differences of one clip over all seeds. Seeds of one clip are not
independent of each other, so that the tests treat a clip as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT_UNITS = 14
"""Up to this many units every assignment of signs is counted: 16,384 of them."""

DRAWS = 10_000
"""Assignments of signs drawn when there are more units."""

EXACT_RANKS = 300
"""Up to this many units the distribution of the rank sum is exact."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: over the seeds that have a number.
        error: standard error of the mean; None with fewer than two seeds.
        count: of seeds.
    """

    mean: float
    error: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error, s / sqrt(n) with s over n - 1.

    Args:
        values: one for each seed; at least one.

    Returns:
        The estimate.

    Raises:
        ValueError: without values.

    Examples:
        >>> estimate([1.0, 3.0])
        Estimate(mean=2.0, error=1.0, count=2)
        >>> estimate([1.0]).error is None
        True
    """
    if not values:
        raise ValueError("the mean of no values is not defined")
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count), count)


def sign_flip_test(units: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0) -> float:
    """Paired permutation test: could a mean difference this large come from labels alone?

    If two cells were alike, swapping their labels on any clip would change nothing. So the signs of
    a clip's differences are flipped, all seeds together, and the p-value is the share of
    assignments whose mean is at least as far from 0. Exact up to `EXACT_UNITS` clips; beyond, from
    drawn assignments, the one observed included (Phipson and Smyth, 2010), so that it is never 0.

    Args:
        units: differences of each clip, by seed.
        draws: assignments to draw if there are too many to count.
        seed: of the draws.

    Returns:
        Two-sided p-value; 1 without differences.

    Examples:
        >>> sign_flip_test([[1.0], [2.0], [1.0]])  # 2 of 8 assignments
        0.25
    """
    sums = np.array([math.fsum(unit) for unit in units], dtype=np.float64)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(float(sums.sum()))
    reached = observed - 1e-9 * float(np.abs(sums).sum())  # sums that differ by rounding are equal
    if len(sums) <= EXACT_UNITS:
        codes = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))
        return float((np.abs((1 - 2 * (codes & 1)) @ sums) >= reached).mean())
    signs = np.random.default_rng(seed).integers(0, 2, (draws, len(sums))) * 2 - 1
    return float((1 + (np.abs(signs @ sums) >= reached).sum()) / (1 + draws))


def wilcoxon(units: Sequence[Sequence[float]]) -> float:
    """Wilcoxon's signed-rank test on the clips' mean differences over seeds.

    Differences of 0 are left out and equal ones share their ranks, as Wilcoxon did. Exact,
    conditional on the shared ranks, up to `EXACT_RANKS` clips; the normal approximation with
    correction for continuity beyond.

    Args:
        units: differences of each clip, by seed.

    Returns:
        Two-sided p-value; 1 without differences.

    Examples:
        >>> wilcoxon([[1.0], [2.0], [3.0]])
        0.25
    """
    means = np.array([math.fsum(unit) / len(unit) for unit in units if len(unit)])
    means = means[means != 0]
    if not len(means):
        return 1.0
    ranks = midranks(np.abs(means))
    positive, total = ranks[means > 0].sum(), ranks.sum()
    distance = abs(positive - total / 2)
    if len(means) > EXACT_RANKS:
        deviation = math.sqrt(float((ranks**2).sum()) / 4)
        return min(1.0, math.erfc(max(0.0, distance - 0.5) / deviation / math.sqrt(2)))
    # Twice the ranks are whole numbers even where ranks are shared.
    doubled = np.rint(2 * ranks).astype(int)
    chances = _rank_sums(doubled)
    sums = np.arange(len(chances)) / 2
    return min(1.0, float(chances[np.abs(sums - total / 2) >= distance - 1e-9].sum()))


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, the mean of their ranks for equal values.

    Args:
        values: (n,).

    Returns:
        Ranks, (n,).

    Examples:
        >>> midranks(np.array([0.5, 2.0, 0.5])).tolist()
        [1.5, 3.0, 1.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method.

    Args:
        values: p-values of one family.

    Returns:
        Adjusted ones in the same order, at most 1: rejecting those below alpha keeps the chance of
        any false rejection below alpha.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


def _rank_sums(ranks: NDArray[np.int_]) -> NDArray[np.float64]:
    """Chance of every sum of ranks whose signs are drawn by a fair coin."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    return chances
