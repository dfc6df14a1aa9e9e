"""The order of batches, as properties that hold for any mixture, ranks and seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.samples import sample

from vedit.data.plan import BatchPlan, Draw, apportioned, bucket_of
from vedit.errors import ConfigError

buckets = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30), min_size=1, max_size=3
)
sizes = st.integers(1, 5)
ranks = st.integers(1, 4)
seeds = st.integers(0, 2**31)


def plan(datasets: list[list[str]], batch_size: int, ranks: int = 1, **more: object) -> BatchPlan:
    return BatchPlan(datasets, [1.0] * len(datasets), batch_size, ranks, **more)  # type: ignore


def shown(batches: list[list[Draw]]) -> Counter[tuple[int, int]]:
    return Counter((d.dataset, d.sample) for batch in batches for d in batch)


@settings(deadline=None, max_examples=60)
@given(buckets, sizes, seeds, st.integers(0, 3))
def test_every_sample_once_per_epoch(
    datasets: list[list[str]], size: int, seed: int, epoch: int
) -> None:
    counts = shown(plan(datasets, size, seed=seed).epoch(epoch))
    everything = {(d, s) for d, names in enumerate(datasets) for s in range(len(names))}
    assert counts == Counter(everything)


@settings(deadline=None, max_examples=60)
@given(buckets, sizes, ranks, seeds)
def test_all_ranks_see_the_same_kind_and_number_of_samples(
    datasets: list[list[str]], size: int, ranks: int, seed: int
) -> None:
    p = plan(datasets, size, ranks, seed=seed)
    by_rank = [list(p.batches(0, rank)) for rank in range(ranks)]
    for step in zip(*by_rank, strict=True):
        kinds = {datasets[d.dataset][d.sample] for batch in step for d in batch}
        assert len(kinds) == 1
        assert len({len(batch) for batch in step}) == 1
        assert 1 <= len(step[0]) <= size
    counts = shown([batch for batches in by_rank for batch in batches])
    assert set(counts) == {(d, s) for d, names in enumerate(datasets) for s in range(len(names))}
    repeats = sum(counts.values()) - len(counts)
    assert repeats < ranks * len({name for names in datasets for name in names})


@settings(deadline=None, max_examples=60)
@given(buckets, sizes, ranks, seeds, st.data())
def test_resuming_continues_the_same_order(
    datasets: list[list[str]], size: int, ranks: int, seed: int, data: st.DataObject
) -> None:
    p = plan(datasets, size, ranks, seed=seed)
    whole = [batch for epoch in (0, 1) for batch in p.batches(epoch * p.batches_per_epoch)]
    consumed = data.draw(st.integers(0, 2 * p.batches_per_epoch - 1))
    again = plan(datasets, size, ranks, seed=seed)
    rest = list(again.batches(consumed))
    assert rest == whole[consumed : consumed + len(rest)]
    assert (consumed + len(rest)) % p.batches_per_epoch == 0


@settings(deadline=None, max_examples=60)
@given(st.floats(0.05, 4), st.integers(1, 40), sizes, seeds)
def test_weights_set_how_often_a_dataset_is_shown(
    weight: float, length: int, size: int, seed: int
) -> None:
    p = BatchPlan([["a"] * length, ["a"] * 10], [weight, 1.0], size, seed=seed)
    for epoch in (0, 1):
        batches = p.epoch(epoch)
        assert len(batches) == p.batches_per_epoch
        counts = [n for (dataset, _), n in shown(batches).items() if dataset == 0]
        assert sum(counts) == max(1, round(weight * length))
        assert all(int(weight) <= n <= int(weight) + 1 for n in counts)


some_weights = st.floats(0.05, 4)


@settings(deadline=None, max_examples=80)
@given(buckets, st.data(), ranks, seeds, st.booleans())
def test_weights_and_sizes_by_bucket(
    datasets: list[list[str]], data: st.DataObject, ranks: int, seed: int, shuffle: bool
) -> None:
    """What holds of every plan, where datasets and buckets have weights and sizes of their own."""
    weights = [data.draw(some_weights) for _ in datasets]
    factors = {name: data.draw(some_weights) for name in "abc"}
    size = {name: data.draw(sizes) for name in "abc"}
    p = BatchPlan(datasets, weights, size, ranks, seed, shuffle, bucket_weights=factors)
    for epoch in (0, 1):
        batches = p.epoch(epoch)
        assert len(batches) == p.batches_per_epoch
        assert batches == BatchPlan(
            datasets, weights, size, ranks, seed, shuffle, bucket_weights=factors
        ).epoch(epoch)
        for batch in batches:
            (name,) = {datasets[d.dataset][d.sample] for d in batch}
            assert len(batch) <= ranks * size[name]
            parts = [batch[rank::ranks] for rank in range(ranks)]
            assert len({len(part) for part in parts}) == 1
            assert len({(d.dataset, d.sample, d.seed) for d in batch}) == len(batch)  # disjoint
        by_rank = [list(p.batches(epoch * p.batches_per_epoch, rank)) for rank in range(ranks)]
        assert [sum(step, []) for step in zip(*by_rank, strict=True)] == [
            sum((batch[rank::ranks] for rank in range(ranks)), []) for batch in batches
        ]
    once = BatchPlan(datasets, weights, size, 1, seed, shuffle, bucket_weights=factors).epoch(0)
    counts = shown(once)  # one rank: nothing is repeated to fill up
    for d, names in enumerate(datasets):
        dues = {name: weights[d] * factors[name] for name in names}
        for s, name in enumerate(names):
            assert int(dues[name]) <= counts[d, s] <= int(dues[name]) + 1
        total = round(sum(dues[name] for name in names))
        mine = sum(n for (dataset, _), n in counts.items() if dataset == d)
        assert total <= mine <= total + len(dues)
        for name in dues:
            assert sum(counts[d, s] for s, other in enumerate(names) if other == name) >= 1


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=8))
def test_whole_numbers_for_what_is_due(dues: list[float]) -> None:
    counts = apportioned(dues)
    assert all(max(1, int(d)) <= n <= int(d) + 1 for d, n in zip(dues, counts, strict=True))
    assert sum(counts) >= round(sum(dues))
    if min(dues) >= 1:
        assert sum(counts) == round(sum(dues))


@settings(deadline=None, max_examples=40)
@given(buckets, sizes, ranks, seeds)
def test_drop_last_leaves_whole_batches_only(
    datasets: list[list[str]], size: int, ranks: int, seed: int
) -> None:
    fullest = Counter(name for names in datasets for name in names).most_common(1)[0][1]
    if fullest < size * ranks:
        with pytest.raises(ConfigError, match="not one batch"):
            plan(datasets, size, ranks, seed=seed, drop_last=True)
        return
    p = plan(datasets, size, ranks, seed=seed, drop_last=True)
    assert {len(batch) for batch in p.epoch(0)} == {size * ranks}
    assert max(shown(p.epoch(0)).values()) == 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    names = ["a"] * 30
    first = plan([names], 4, seed=1)
    assert first.epoch(0) == plan([names], 4, seed=1).epoch(0)
    assert first.epoch(0) != first.epoch(1)
    assert first.epoch(0) != plan([names], 4, seed=2).epoch(0)
    seeds = [d.seed for epoch in (0, 1) for batch in first.epoch(epoch) for d in batch]
    assert len(set(seeds)) == len(seeds)


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    p = plan([["a", "b", "a"], ["a"]], 2, shuffle=False)
    order = [[(d.dataset, d.sample) for d in batch] for batch in p.epoch(0)]
    assert order == [[(0, 0), (0, 2)], [(1, 0)], [(0, 1)]]


def test_the_world_size_does_not_change_what_a_global_batch_holds() -> None:
    names = ["a"] * 16
    one, four = plan([names], 8, ranks=1, seed=3), plan([names], 2, ranks=4, seed=3)
    assert one.epoch(0) == four.epoch(0)


def test_buckets_tell_shapes_and_conditions_apart() -> None:
    records = [
        sample(0).record,
        sample(1).record,
        sample(2, mask=True).record,
        sample(3, reference=True).record,
        sample(4, frames=9).record,
        replace(sample(5).record, task="image"),
    ]
    assert len({bucket_of(r) for r in records}) == 5


@pytest.mark.parametrize(
    ("weights", "size", "said"),
    [([1.0], 0, "batch_size"), ([0.0], 1, "weights"), ([1.0, 2.0], 1, "weights")],
)
def test_impossible_plans_are_refused(weights: list[float], size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BatchPlan([["a"]], weights, size)
