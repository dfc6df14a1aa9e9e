"""The plans in docs/scaling.md are those that the formulas give."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plans() -> ModuleType:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("plans", None)
    import plans as module

    patch.undo()
    return module


def rows(plans: ModuleType, case: object) -> list[str]:
    return plans.table([plans.model_of(case)]).splitlines()[2:]


@pytest.mark.parametrize(
    "index", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 6))]
)
def test_the_page_shows_what_the_formulas_give(plans: ModuleType, index: int) -> None:
    page = (ROOT / "docs/scaling.md").read_text().splitlines()
    found = rows(plans, plans.CASES[index])
    assert len(found) == len(plans.GPUS)
    start = page.index(found[0])
    assert page[start : start + len(found)] == found


def test_every_plan_fits_and_uses_every_gpu(plans: ModuleType) -> None:
    model = plans.model_of(plans.CASES[0])
    for gpus in plans.GPUS:
        made = list(plans.plans(model, gpus))
        assert all(plan.memory.peak <= plans.USABLE * plans.MEMORY for plan in made)
        assert all(plan.samples * plan.spread.context == gpus for plan in made)
        best = plans.best(model, gpus)
        fastest = min(plan.seconds * plan.spread.context for plan in made)
        assert best.seconds * best.spread.context <= 1.05 * fastest


def test_nothing_fits_a_model_that_is_too_large(plans: ModuleType) -> None:
    model = plans.model_of(plans.CASES[0])
    large = replace(model, holding=replace(model.holding, stored=plans.MEMORY))
    assert plans.best(large, 512) is None
    assert "does not fit" in plans.table([large])


def test_a_page_keeps_all_but_the_table(plans: ModuleType) -> None:
    page = "before\n<!-- plans -->\nold\n<!-- /plans -->\nafter\n"
    made = plans.written(page, "| new |")
    assert made == "before\n<!-- plans -->\n| new |\n<!-- /plans -->\nafter\n"
    assert plans.written(made, "| new |") == made
