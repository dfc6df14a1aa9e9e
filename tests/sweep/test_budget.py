"""Steps from a budget."""

from __future__ import annotations

import pytest

from vedit.errors import ConfigError
from vedit.sweep.budget import Costs, costs, steps_of
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
