from __future__ import annotations

import math
from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedit.sweep.report.statistics import (
    EXACT_UNITS,
    estimate,
    holm,
    midranks,
    sign_flip_test,
    wilcoxon,
)

NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
UNITS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3), min_size=1, max_size=8)
CHANCES = st.lists(st.floats(0, 1), max_size=8)
FEW = settings(max_examples=40, deadline=None)


@FEW
@given(st.lists(NUMBERS, min_size=2, max_size=6))
def test_error_of_the_mean(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(fmean(values))
    assert found.error == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-9)


def test_one_seed_has_no_error_and_none_no_mean() -> None:
    assert estimate([3.0]).error is None
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@FEW
@given(UNITS)
def test_sign_flips_agree_with_counting_them(units: list[list[float]]) -> None:
    sums = [math.fsum(unit) for unit in units]
    every = [
        abs(math.fsum(sign * value for sign, value in zip(signs, sums, strict=True)))
        for signs in product((1, -1), repeat=len(sums))
    ]
    share = sum(value >= abs(math.fsum(sums)) - 1e-6 for value in every) / len(every)
    assert sign_flip_test(units) == pytest.approx(share)


@FEW
@given(UNITS)
def test_wilcoxon_agrees_with_counting_signs(units: list[list[float]]) -> None:
    means = [mean for unit in units if (mean := math.fsum(unit) / len(unit)) != 0]
    ranks = midranks(np.abs(np.array(means))).tolist() if means else []
    middle = sum(ranks) / 2
    observed = abs(sum(r for r, m in zip(ranks, means, strict=True) if m > 0) - middle)
    every = [
        abs(sum(r for r, up in zip(ranks, ups, strict=True) if up) - middle)
        for ups in product((True, False), repeat=len(ranks))
    ]
    share = sum(value >= observed - 1e-6 for value in every) / len(every)
    assert wilcoxon(units) == pytest.approx(share)


@FEW
@given(UNITS, st.randoms())
def test_tests_look_at_size_only(units: list[list[float]], random) -> None:
    turned = [[-value for value in unit] for unit in units]
    random.shuffle(turned)
    for test in (sign_flip_test, wilcoxon):
        assert 0 < test(units) <= 1
        assert test(turned) == pytest.approx(test(units))


def test_known_values_of_wilcoxon() -> None:
    # Wilcoxon (1945) as in scipy.stats.wilcoxon's own example, Darwin's maize: p = 0.041259765625.
    maize = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    assert wilcoxon([[float(d)] for d in maize]) == pytest.approx(0.041259765625)


def test_known_value_of_sign_flips() -> None:
    # Fisher (1935) on the same maize: 1726 of 32768 assignments reach the difference.
    maize = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    drawn = sign_flip_test([[float(d)] for d in maize], draws=40_000)
    assert len(maize) > EXACT_UNITS
    assert drawn == pytest.approx(1726 / 32768, abs=0.004)


def test_many_clips_alike_are_significant_and_never_certain() -> None:
    units = [[1.0 + i / 100, 1.2] for i in range(40)]
    assert 0 < sign_flip_test(units) < 2e-4
    assert 0 < wilcoxon(units) < 1e-6
    assert wilcoxon(units * 10) < 1e-20  # the normal approximation


def test_seeds_of_a_clip_are_not_independent() -> None:
    clips = [[1.0], [2.0], [0.5], [1.5], [-0.2]]
    assert sign_flip_test([unit * 4 for unit in clips]) == sign_flip_test(clips)
    assert wilcoxon([unit * 4 for unit in clips]) == wilcoxon(clips)


def test_false_positives_are_as_rare_as_they_should_be() -> None:
    draws = np.random.default_rng(0).normal(size=(400, 10, 2))
    for test in (sign_flip_test, wilcoxon):
        share = np.mean([test(units.tolist()) <= 0.05 for units in draws])
        assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(draws))


@FEW
@given(CHANCES)
def test_holm_only_raises_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= after <= 1 for value, after in zip(values, adjusted, strict=True))
    for (one, first), (other, second) in product(zip(values, adjusted, strict=True), repeat=2):
        if one <= other:
            assert first <= second


@FEW
@given(CHANCES)
def test_holm_rejects_between_bonferroni_and_nothing_corrected(values: list[float]) -> None:
    for value, after in zip(values, holm(values), strict=True):
        assert after <= min(1.0, len(values) * value) + 1e-12
