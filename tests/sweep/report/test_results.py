from __future__ import annotations

from dataclasses import replace

import pytest
from tests.sweep.report.sweeps import KEYS, made, make_grid

from vedit.sweep.records import Outcome
from vedit.sweep.report.results import compare, results

GAINS = {0: 2.0, 1: 1.0, 2: 4.0, 3: 4.6}


def test_a_cell_is_averaged_over_its_seeds() -> None:
    grid = make_grid(seeds=(0, 1, 2))
    found = results(grid, made(grid, GAINS))
    value = found.cells[0].estimates["gain"]
    assert value.count == 3
    assert value.mean == pytest.approx(2.0 + 0.45 + 0.05)
    assert value.error == pytest.approx(0.05 / 3**0.5)
    assert [cell.label for cell in found.cells] == [
        "full · add", "full · sequence", "LoRA · add", "LoRA · sequence",
    ]  # fmt: skip


def test_pairs_are_of_equal_clip_and_seed() -> None:
    grid = make_grid()
    outcomes = made(grid, GAINS)
    one, base = outcomes[:2], outcomes[-2:]
    missing = {"gain": {key: one[0].per_clip["gain"][key] for key in KEYS[1:]}}
    found = compare("gain", [replace(one[0], per_clip=missing), one[1]], base[::-1])
    assert found is not None
    assert (found.pairs, found.clips) == (2 * len(KEYS) - 1, len(KEYS))
    assert found.difference == pytest.approx(2.0 - 4.6)
    # One difference for all clips: two of the 2^4 assignments of signs are as extreme.
    assert found.permutation == found.wilcoxon == pytest.approx(2 / 2 ** len(KEYS))


def test_seeds_that_differ_are_no_pairs() -> None:
    grid = make_grid()
    outcomes = made(grid, GAINS)
    assert compare("gain", outcomes[:1], outcomes[-1:]) is None
    assert compare("loss", outcomes[:1], outcomes[-1:]) is None


def test_without_numbers_by_clip_there_is_a_difference_but_no_test() -> None:
    grid = make_grid()
    found = results(grid, made(grid, GAINS)).cells[0].comparisons["loss"]
    assert found.pairs == 2
    assert found.difference == pytest.approx(1 / 3 - 1 / 5.6)
    assert (found.permutation, found.wilcoxon, found.adjusted) == (None, None, None)


def test_holm_counts_the_cells_that_were_tested() -> None:
    grid = make_grid()
    cells = results(grid, made(grid, GAINS)).cells
    tested = [cell.comparisons["gain"] for cell in cells[:-1]]
    assert cells[-1].comparisons == {}
    assert [c.adjusted for c in tested] == pytest.approx([3 * 2 / 2 ** len(KEYS)] * 3)


def test_a_training_that_diverged_is_neither_tested_nor_best() -> None:
    grid = make_grid()
    outcomes = made(grid, GAINS)
    nan = float("nan")
    broken: list[Outcome] = [
        replace(o, metrics={**o.metrics, "gain": nan}, per_clip={"gain": dict.fromkeys(KEYS, nan)})
        for o in outcomes[:2]
    ]
    found = results(grid, [*broken, *outcomes[2:]])
    assert found.cells[0].comparisons["gain"].permutation is None
    assert found.best(grid.metrics[1]) == {found.cells[-1].name}


def test_cells_that_have_not_finished_say_so_and_are_not_best() -> None:
    grid = make_grid()
    states = {(3, 0): "waiting", (0, 0): "failed", (0, 1): "running", (1, 0): "cancelled"}
    outcomes = made(grid, GAINS, states)
    found = results(grid, [o for o in outcomes if o.cell.options != grid.cells[2]])
    assert [cell.progress for cell in found.cells] == [
        "running", "1 of 2 seeds", "waiting", "1 of 2 seeds",
    ]  # fmt: skip
    assert not found.best(grid.metrics[1])
    assert found.cells[0].estimates == {}
    assert found.cells[1].comparisons["gain"].pairs == len(KEYS)


def test_what_was_published_goes_to_the_cells_it_is_of() -> None:
    grid = make_grid()
    found = results(grid, [])
    assert [dict(cell.published[0]) for cell in found.cells] == [
        {"score": 4.67}, {}, {}, {"score": 7.05},
    ]  # fmt: skip
