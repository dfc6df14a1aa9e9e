"""Batches by a budget of tokens, and weights by kind of sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.samples import sample
from tests.tiny import built

from vedit.batch import Conditions
from vedit.conditioning.add import AddToTokens
from vedit.conditioning.append import AppendTokens
from vedit.data.mixture import Mixture, conditions_of
from vedit.data.plan import Bucket, bucket_of
from vedit.data.schema import SampleRecord
from vedit.errors import ConfigError


def records(*kinds: str) -> list[SampleRecord]:
    """One record for each letter: image, video, a longer one, with a mask, a reference, several."""
    made = {
        "i": replace(sample(0).record, task="image", frames=1),
        "v": sample(0).record,
        "l": replace(sample(0).record, frames=9),
        "m": replace(sample(0).record, has_mask=True),
        "r": replace(sample(0).record, has_reference=True),
        "s": replace(sample(0).record, has_reference=True, more_references=2),
    }
    return [replace(made[kind], key=f"{kind}-{i}") for i, kind in enumerate("".join(kinds))]


def tokens_of(bucket: Bucket) -> int:
    latent_frames = (bucket.frames - 1) // 4 + 1
    return 6 * (2 * latent_frames + bucket.references)


def shown(mixture: Mixture, rows: list[list[SampleRecord]], ranks: int = 1) -> list[Counter[str]]:
    """For each global batch of an epoch, how often each kind is in it."""
    plan = mixture.plan(rows, ranks, tokens_of)
    return [Counter(rows[d.dataset][d.sample].key[0] for d in batch) for batch in plan.epoch(0)]


kinds = st.text("ivlmr", min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(kinds, st.integers(36, 200), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_a_batch_fills_the_budget_and_never_exceeds_it(
    letters: str, budget: int, ranks: int, drop_last: bool, seed: int
) -> None:
    rows = [records(letters)]
    mixture = Mixture({"a": 1.0}, tokens_per_batch=budget, drop_last=drop_last, seed=seed)
    count = Counter(map(bucket_of, rows[0]))
    if drop_last and all(n < ranks * (budget // tokens_of(b)) for b, n in count.items()):
        with pytest.raises(ConfigError, match="not one batch"):
            mixture.plan(rows, ranks, tokens_of)
        return
    plan = mixture.plan(rows, ranks, tokens_of)
    short: Counter[Bucket] = Counter()
    for batch in plan.epoch(0):
        (bucket,) = {bucket_of(rows[0][draw.sample]) for draw in batch}
        tokens = tokens_of(bucket) * len(batch) / ranks
        assert tokens <= budget
        short[bucket] += tokens + tokens_of(bucket) <= budget
    assert max(short.values()) <= (0 if drop_last else 1), "more than one batch with room left"


def test_a_budget_that_no_sample_fits_is_named() -> None:
    mixture = Mixture({"a": 1.0}, tokens_per_batch=20)
    with pytest.raises(
        ConfigError, match="tokens_per_batch: got 20, but one video of 5x16x24 .* makes 24 tokens"
    ):
        mixture.plan([records("iv")], 1, tokens_of)


def test_weights_by_folder_and_by_kind_multiply() -> None:
    rows = [records("iiiivv"), records("iivvr")]
    mixture = Mixture({"one": 1.0, "two": 2.0}, {"image": 0.5, "reference": 3.0})
    total = sum(shown(mixture, rows), Counter())
    assert total == {"i": 4 * 0.5 + 2 * 0.5 * 2, "v": 2 + 2 * 2, "r": 3 * 2}


def test_a_kind_that_weighs_nothing_is_left_out() -> None:
    total = sum(shown(Mixture({"one": 1.0}, {"image": 0.0}), [records("iivvr")]), Counter())
    assert total == {"v": 2, "r": 1}


def test_turns_take_weights_and_budgets_too() -> None:
    rows = [records("iiiivvvv")]
    mixture = Mixture({"one": 1.0}, {"image": 2.0}, {"image": 1, "video": 1}, tokens_per_batch=48)
    batches = shown(mixture, rows)
    assert batches == [{"i": 4}, {"v": 2}] * 2  # 12 and 24 tokens a sample


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"imgae": 1.0}, "task_weights.imgae: no sample .* Did you mean 'image'"),
        ({"image": -1.0}, "task_weights.image: got -1.0"),
        ({"image": 0.0, "video": 0.0}, "not one batch"),
    ],
)
def test_mistakes_are_named(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mixture({"one": 1.0}, weights).plan([records("iv")], 1, tokens_of)


@pytest.mark.parametrize("letter", "ivlmrs")
def test_tokens_are_those_that_the_backbone_reads(letter: str) -> None:
    """The count from sizes alone against the sequence of a real batch."""
    import torch

    system = built(
        mask=lambda spec: AddToTokens(spec, segment="source"),
        reference=lambda spec: AppendTokens(spec, time="after"),
    )
    (record,) = records(letter)
    bucket = bucket_of(record)
    before = torch.get_rng_state()
    count = system.tokens_of((bucket.frames, bucket.height, bucket.width), conditions_of(bucket))
    assert torch.equal(before, torch.get_rng_state())
    grid = system.codec.latent_grid(bucket.frames, bucket.height, bucket.width)
    latents: dict[str, Any] = {
        name: torch.zeros(1, 4, *(grid if name != "reference" else (bucket.references, *grid[1:])))
        for name in conditions_of(bucket)
        if "." not in name  # further references lie along t
    }
    sequence = system.model.sequence(
        torch.zeros(1, 4, *grid), torch.zeros(1), Conditions(latents, system.context.null(1))
    )
    assert count == sum(segment.tokens.shape[1] for segment in sequence.segments)
