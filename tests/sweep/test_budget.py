"""Steps from a budget."""

from __future__ import annotations

import pytest
from tests.data.samples import sample

from vedit.data.mixture import Mixture
from vedit.errors import ConfigError
from vedit.sweep.budget import Costs, costs, samples_of_batch, steps_of
from vedit.sweep.experiments import Facts
from vedit.sweep.records import Budget

BASE = [Costs(samples=4, flops=100.0, steps=None)]


def test_without_a_budget_the_configuration_decides() -> None:
    assert steps_of(None, [Costs(1, None, 30), Costs(1, None, None)], BASE) == [30, None]


def test_steps_are_shared_between_stages() -> None:
    stages = [Costs(1, None, 7), Costs(1, None, None, share=0.5), Costs(1, None, None)]
    assert steps_of(Budget(steps=100), stages, BASE) == [7, 50, 43]


def test_cells_match_the_baseline_in_compute() -> None:
    budget = Budget(steps=100, match=True)
    assert steps_of(budget, BASE, BASE) == [100]
    assert steps_of(budget, [Costs(4, 250.0, None)], BASE) == [40]
    # Half of the operations at a quarter of the price: twice the steps of the baseline.
    stages = [Costs(1, 25.0, None, share=0.5), Costs(4, 100.0, None)]
    assert steps_of(budget, stages, BASE) == [200, 50]


def test_a_budget_in_operations_gives_steps() -> None:
    assert steps_of(Budget(flops=1e4), [Costs(4, 400.0, None)], BASE) == [25]


@pytest.mark.parametrize(
    ("budget", "stages", "expected"),
    [
        (Budget(flops=50.0), [Costs(1, 1e3, None)], "leave no step"),
        (Budget(flops=50.0), [Costs(1, None, None)], "give `video`"),
        (Budget(steps=5), [Costs(1, None, None), Costs(1, None, None)], "neither `share` nor"),
        (Budget(steps=5), [Costs(1, None, 5), Costs(1, None, None)], "leave no step"),
    ],
)
def test_a_budget_that_does_not_work_out_is_refused(
    budget: Budget, stages: list[Costs], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        steps_of(budget, stages, BASE)


def test_a_step_costs_what_all_its_samples_cost() -> None:
    checked = {
        "trainer": {"accumulate_grad_batches": 2, "devices": 4, "num_nodes": 3, "max_steps": 9},
        "data": {"batch_size": 5},
    }
    found = costs(checked, Facts(1, 0, 10, 7.0))
    assert found == Costs(samples=120, flops=840.0, steps=9)
    assert costs({"trainer": {"devices": "auto"}, "data": None}, Facts(1, 0)).samples == 1


def test_ranks_that_share_a_sequence_have_the_same_samples() -> None:
    strategy = {"class_path": "vedit.distributed.fsdp2.FSDP2", "init_args": {"context": 4}}
    checked = {"trainer": {"devices": 8, "strategy": strategy}, "data": {"batch_size": 3}}
    assert costs(checked, Facts(1, 0, 10, 7.0)) == Costs(samples=6, flops=42.0, steps=None)
    checked["trainer"] = {"devices": 8, "strategy": "ddp"}
    assert costs(checked, Facts(1, 0, 10, 7.0)).samples == 24


BY_TOKENS = {
    "trainer": {"devices": 2, "accumulate_grad_batches": 3},
    "data": {"batch_size": 5, "tokens_per_batch": 100},
}


def test_a_budget_of_tokens_has_room_for_whole_samples() -> None:
    assert costs(BY_TOKENS, Facts(1, 0, 30, 7.0)) == Costs(samples=18, flops=126.0, steps=None)
    # Twice the tokens, half the samples: as many operations as its attention does not add.
    assert costs(BY_TOKENS, Facts(1, 0, 60, 14.0)).samples == 6
    own = {**BY_TOKENS, "data": {"class_path": "lab.Data", "init_args": BY_TOKENS["data"]}}
    assert costs(own, Facts(1, 0, 30, 7.0)).samples == 18


def test_a_budget_of_tokens_needs_a_size_and_room_for_a_sample() -> None:
    unknown = costs(BY_TOKENS, Facts(1, 0))
    assert unknown == Costs(samples=None, flops=None, steps=None)
    with pytest.raises(ConfigError, match="give `video`"):
        steps_of(Budget(flops=1e4), [unknown], BASE)
    with pytest.raises(ConfigError, match=r"tokens_per_batch: got 100, but a sample makes 101 tok"):
        costs(BY_TOKENS, Facts(1, 0, 101, 7.0))


@pytest.mark.parametrize("tokens", [48, 100, 144, 1000])
def test_batches_count_as_many_samples_as_the_data_forms(tokens: int) -> None:
    clip = sample(0).record
    mixture = Mixture({"a": 1.0}, tokens_per_batch=tokens, drop_last=True)
    plan = mixture.plan([[clip] * 64], ranks=1, tokens_of=lambda bucket: 48)
    (formed,) = {len(batch) for batch in plan.epoch(0)}
    assert samples_of_batch({"tokens_per_batch": tokens}, 48) == formed
