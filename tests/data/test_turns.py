"""Strict turns, as properties that hold for any kinds, lengths, ratios, ranks and seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.samples import sample

from vedit.data.plan import BatchPlan, Draw, bucket_of
from vedit.data.turns import RoundRobin, Turn, interleaved, turns_of
from vedit.errors import ConfigError

lengths = st.lists(st.integers(1, 20), min_size=1, max_size=4)
sizes = st.integers(1, 4)
ranks = st.integers(1, 4)
seeds = st.integers(0, 2**31)


def round_robin(
    lengths: list[int], turns: list[int], size: int = 1, ranks: int = 1, seed: int = 0
) -> RoundRobin:
    """One dataset for each turn, whose number is that of the turn."""
    plans = []
    for who in range(len(lengths)):
        buckets = [["a" if who == i else None] * n for i, n in enumerate(lengths)]
        plans.append(BatchPlan(buckets, [1.0] * len(lengths), size, ranks, seed + who))
    return RoundRobin(plans, turns)


def whose(batches: list[list[Draw]]) -> list[int]:
    found = [{draw.dataset for draw in batch} for batch in batches]
    assert all(len(datasets) == 1 for datasets in found)
    return [datasets.pop() for datasets in found]


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    long = draw(lengths)
    turns = st.lists(st.integers(1, 3), min_size=len(long), max_size=len(long))
    return long, draw(turns)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_a_cycle_spreads_turns_evenly(turns: list[int]) -> None:
    cycle = interleaved(turns)
    assert Counter(cycle) == Counter(dict(enumerate(turns)))
    for end in range(1, len(cycle) + 1):
        for number, times in enumerate(turns):
            due = end * times / len(cycle)
            assert abs(cycle[:end].count(number) - due) < len(turns)


@given(mixtures(), sizes, ranks, seeds, st.integers(0, 2))
def test_turns_are_strict_on_every_rank(
    mixture: tuple[list[int], list[int]], size: int, ranks: int, seed: int, epoch: int
) -> None:
    plan = round_robin(*mixture, size, ranks, seed)
    by_rank = [list(plan.batches(epoch * plan.batches_per_epoch, r)) for r in range(ranks)]
    cycles = plan.batches_per_epoch // len(plan.cycle)
    for batches in by_rank:
        assert whose(batches) == list(plan.cycle) * cycles
    for step in zip(*by_rank, strict=True):
        assert len({len(batch) for batch in step}) == 1


@given(mixtures(), sizes, ranks, seeds, st.data())
def test_resuming_continues_the_same_order(
    mixture: tuple[list[int], list[int]], size: int, ranks: int, seed: int, data: st.DataObject
) -> None:
    plan = round_robin(*mixture, size, ranks, seed)
    length = plan.batches_per_epoch
    whole = [batch for epoch in (0, 1) for batch in plan.epoch(epoch)]
    assert len(whole) == 2 * length
    consumed = data.draw(st.integers(0, 2 * length - 1))
    rank = data.draw(st.integers(0, ranks - 1))
    rest = list(round_robin(*mixture, size, ranks, seed).batches(consumed, rank))
    end = (consumed // length + 1) * length
    assert rest == [batch[rank::ranks] for batch in whole[consumed:end]]


@given(mixtures(), sizes, seeds)
def test_no_sample_comes_again_before_all_others_of_its_turn(
    mixture: tuple[list[int], list[int]], size: int, seed: int
) -> None:
    plan = round_robin(*mixture, size, seed=seed)
    seen = [draw for epoch in range(3) for batch in plan.epoch(epoch) for draw in batch]
    for who, length in enumerate(mixture[0]):
        order = [draw.sample for draw in seen if draw.dataset == who]
        for start in range(0, len(order), length):
            part = order[start : start + length]
            assert len(set(part)) == len(part)
    assert len({draw.seed for draw in seen}) == len(seen)


@given(mixtures(), sizes, ranks)
def test_an_epoch_ends_with_the_first_to_be_exhausted(
    mixture: tuple[list[int], list[int]], size: int, ranks: int
) -> None:
    plan = round_robin(*mixture, size, ranks)
    batches = [-(-length // (size * ranks)) for length in mixture[0]]
    whole = min(b // t for b, t in zip(batches, mixture[1], strict=True))
    assert plan.batches_per_epoch == max(1, whole) * sum(mixture[1])


def test_one_to_one_to_one_and_two_to_one_to_one() -> None:
    assert whose(round_robin([2, 9, 9], [1, 1, 1]).epoch(0)) == [0, 1, 2, 0, 1, 2]
    assert whose(round_robin([4, 9, 9], [2, 1, 1]).epoch(0)) == [0, 1, 2, 0] * 2


def test_the_world_size_does_not_change_what_a_global_batch_holds() -> None:
    one, four = round_robin([16, 8], [1, 1], 8), round_robin([16, 8], [1, 1], 2, ranks=4)
    assert one.epoch(0) == four.epoch(0)


def test_epochs_and_seeds_differ() -> None:
    plan = round_robin([30, 30], [1, 1], 2)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) != round_robin([30, 30], [1, 1], 2, seed=7).epoch(0)


def taken(turns: list[Turn]) -> dict[str, list[list[bool]]]:
    return {turn.name: turn.takes for turn in turns}


def test_turns_are_those_of_kinds_or_of_folders() -> None:
    video, reference = sample(0).record, sample(1, reference=True).record
    image = replace(sample(2).record, task="image", frames=1)
    rows, folders = [[image, video], [reference]], ["one", "two"]
    by_kind = taken(turns_of(rows, folders, {"video": 1, "image": 1, "reference": 1}))
    assert list(by_kind) == ["video", "image", "reference"]
    assert by_kind["video"] == [[False, True], [False]]
    assert by_kind["image"] == [[True, False], [False]]
    two, one = turns_of(rows, folders, {"two": 1, "one": 1})
    assert (two.takes, one.takes) == ([[False, False], [True]], [[True, True], [False]])
    assert one.buckets(rows) == [[bucket_of(image), bucket_of(video)], [None]]
    assert one.seed(0) != two.seed(0)


def test_others_stand_in_for_a_kind_that_is_not_there() -> None:
    rows = [[sample(i, reference=True).record for i in range(3)]]
    image, video, reference = turns_of(rows, ["one"], {"image": 1, "video": 2, "reference": 1})
    assert image.takes == video.takes == reference.takes == [[True] * 3]
    kinds = [turn.buckets(rows)[0][0] for turn in (image, video, reference)]
    assert kinds == [
        bucket_of(replace(rows[0][0], task="image", frames=1, has_reference=False)),
        bucket_of(replace(rows[0][0], task="video", has_reference=False)),
        bucket_of(rows[0][0]),
    ]


def test_a_turn_of_0_is_left_out_on_purpose() -> None:
    image = replace(sample(2).record, task="image", frames=1)
    rows, folders = [[image], [sample(0).record]], ["one", "two"]
    for turns in ({"video": 1, "image": 0}, {"one": 0, "two": 1}):
        (only,) = turns_of(rows, folders, turns)
        assert only.takes == [[False], [True]]
    with pytest.raises(ConfigError, match="turns"):
        RoundRobin([], [])


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (["vidoe", "image"], "no samples for 'vidoe'.*Did you mean 'video'"),
        (["reference", "image"], "no samples for 'reference'; there are image, video"),
        (["image"], "video train-0000000 of two never has a turn"),
        (["two"], "image train-0000002 of one never has a turn"),
    ],
)
def test_mistakes_are_named(turns: list[str], said: str) -> None:
    image = replace(sample(2).record, task="image", frames=1)
    with pytest.raises(ConfigError, match=said):
        turns_of([[image], [sample(0).record]], ["one", "two"], dict.fromkeys(turns, 1))


def test_a_turn_comes_at_least_once() -> None:
    with pytest.raises(ConfigError, match="turns"):
        round_robin([3, 3], [1, 0])
