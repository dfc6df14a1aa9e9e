"""The estimate of memory, against what a training holds, and what is said about it."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import BACKBONE, built, make_batch

from vedit.averaging import Averaging
from vedit.backbones.recompute import EveryKth, KeepAttention, RecomputeBlocks
from vedit.backbones.wan import WanDiT
from vedit.callbacks.description import describe
from vedit.callbacks.memory import (
    GIB,
    USABLE,
    MemoryEstimate,
    Spread,
    estimate,
    frugal_enough,
)
from vedit.callbacks.summary import compared, warning
from vedit.compilation import CompileBlocks
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.finetune.storage import NF4

SIZE = (5, 16, 24)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2), LoRA(rank=2, base=NF4())])
def test_weights_gradients_and_states_are_those_of_a_step(method: Full | LoRA) -> None:
    system = built(finetune=FinetunePlan(backbone=method))
    parameters = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    batch = make_batch()
    x = torch.randn(2, 4, 2, 4, 6)
    system(x, torch.full((2,), 0.5), system.conditions(batch)).square().mean().backward()
    # An injection that the conditions leave out has no gradient in one step, but in others.
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    found = describe(system, *SIZE).memory
    frozen = sum(p.nbytes for p in system.model.parameters() if not p.requires_grad)
    frozen += sum(t.nbytes for m in system.model.modules() for t in getattr(m, "stored", ()))
    frozen += sum(p.nbytes for p in system.context.connector.parameters())
    assert found.weights == sum(p.nbytes for p in parameters) + frozen
    assert found.gradients == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    states = [t for s in optimizer.state.values() for t in s.values() if t.numel() > 1]
    assert found.optimizer == pytest.approx(sum(t.nbytes for t in states), rel=0.01)
    codec = sum(p.nbytes for p in system.codec.parameters())
    tower = sum(p.nbytes for p in system.context.tower.parameters())
    assert found.encoders == codec + tower


ALONE = Spread()


def of(spread: Spread = ALONE, recompute: object = None) -> MemoryEstimate:
    system = built(finetune=FinetunePlan(backbone=LoRA(rank=2)))
    described = describe(system, *SIZE)
    return estimate(described.holding, [recompute] * described.blocks, spread)


def test_sharing_out_weights_divides_them() -> None:
    one, four = of(), of(Spread(shard=4))
    assert four.gradients == one.gradients / 4
    assert four.optimizer == one.optimizer / 4
    assert four.activations == one.activations
    replicated = of(Spread(shard=4, frozen="replicated"))
    assert replicated.weights > four.weights


def test_sharing_a_sequence_divides_activations_too() -> None:
    one, two = of(), of(Spread(context=2))
    assert two.gradients == one.gradients / 2
    assert 0.45 * one.activations < two.activations < 0.75 * one.activations
    assert of(Spread(batch=3)).activations == pytest.approx(3 * one.activations)


def test_a_compiler_told_to_keep_a_share_keeps_that_share() -> None:
    every = describe(built(), *SIZE).memory.activations
    told = built(compile=CompileBlocks(backend="eager", keep=0.5))
    half = describe(told, *SIZE).memory.activations
    assert 0.5 * every < half < 0.75 * every  # what lies outside of blocks stays


def test_gradients_add_to_activations_where_batches_accumulate() -> None:
    apart, together = of(), of(Spread(accumulates=True))
    assert together.peak > apart.peak


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_an_average_of_what_trains_is_counted(precision: str) -> None:
    changes = {"finetune": FinetunePlan(backbone=LoRA(rank=2), connector=Full())}
    system = built(**changes, averaging=Averaging())
    estimated = describe(system, *SIZE, precision=precision)
    apart = describe(built(**changes), *SIZE, precision=precision)
    if precision == "bf16-true":
        system.model.to(torch.bfloat16)
        system.context.connector.to(torch.bfloat16)
    system.start_average()
    found = estimated.memory
    assert found.average == sum(p.nbytes for p in system.average.parameters()) > 0
    assert estimated.holding.widened == (found.average if precision == "bf16-true" else 0)
    assert found.peak == apart.memory.peak + found.average
    assert f"optimizer {found.optimizer / GIB:.1f}, average {found.average / GIB:.1f}, " in (
        estimated.text()
    )
    assert found.as_dict()["average"] == found.average / GIB
    assert apart.memory.average == 0
    assert "average" not in apart.text()
    four = estimate(estimated.holding, [None] * estimated.blocks, Spread(shard=4))
    assert four.average == found.average / 4


def test_an_average_on_the_host_takes_nothing_of_the_device() -> None:
    system = built(averaging=Averaging(device="cpu"))
    assert describe(system, *SIZE).memory == describe(built(), *SIZE).memory


def test_weights_that_are_widened_into_an_average_are_there_twice_for_a_moment() -> None:
    system = built(averaging=Averaging())
    holding = describe(system, *SIZE, precision="bf16-true").holding
    needed = estimate(holding, [None, None], Spread())
    assert needed.step == needed.average == 2 * needed.gradients


def test_the_peak_has_phases() -> None:
    passing = MemoryEstimate(10, 5, 20, 4, 4, 100, 7)
    assert passing.peak == 10 + 5 + 20 + 100 + 7
    stepping = MemoryEstimate(10, 5, 20, 40, 40, 30, 7)
    assert stepping.peak == 10 + 5 + 20 + 80
    averaged = MemoryEstimate(10, 5, 20, 40, 40, 30, 7, average=9)
    assert averaged.peak == stepping.peak + 9


def test_a_warning_names_the_fastest_way_that_fits() -> None:
    many = {**BACKBONE, "num_layers": 6}
    system = built(backbone=lambda: WanDiT(**many), finetune=FinetunePlan(backbone=LoRA(rank=2)))
    described = describe(system, 33, 256, 256)
    holding, spread, blocks = described.holding, Spread(), described.blocks
    ways = [None, KeepAttention(), EveryKth(2, KeepAttention()), RecomputeBlocks()]
    peaks = [
        estimate(holding, [None if w is None else w.at(i) for i in range(blocks)], spread).peak
        for w in ways
    ]
    assert peaks[0] > peaks[2] > peaks[1] > peaks[3]
    assert warning(described.memory, holding, spread, peaks[0] / USABLE + 1, blocks) == []
    (line,) = warning(described.memory, holding, spread, peaks[1] / USABLE + 1, blocks)
    assert "recompute: KeepAttention takes" in line
    (line,) = warning(described.memory, holding, spread, 1000, blocks)
    assert "no way to recompute makes it fit" in line
    assert frugal_enough(holding, spread, 1000, blocks) is None


def test_the_comparison_says_how_far_off_the_formula_was() -> None:
    said = compared(MemoryEstimate(1.0 * GIB, 0, 0, 0, 0, 0, 0), 0.8 * GIB, 3)
    assert said == "memory: 0.8 GiB at the most in 3 batches; 1.0 by formula (+25%)"
