"""Gradients of every way to spread a nano system over ranks, against those of one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from tests.parallel.nano import FINETUNE, SYSTEMS, LossOf, build, configured, gradients
from tests.parallel.ranks import Ranks
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from vedit.parallel.gradients import average_gradients
from vedit.parallel.mesh import MeshSizes, build_plan
from vedit.parallel.sharding import Sharding, shard
from vedit.system import EditSystem

WAYS = {
    2: {
        "ddp": MeshSizes(replicate=2),
        "fsdp": MeshSizes(shard=2),
        "ulysses": MeshSizes(context=2),
        "fsdp ulysses": MeshSizes(context=2),
    },
    4: {
        "ddp": MeshSizes(replicate=4),
        "fsdp": MeshSizes(shard=4),
        "fsdp hybrid": MeshSizes(replicate=2, shard=2),
        "ddp ulysses": MeshSizes(replicate=2, context=2),
        "fsdp ulysses": MeshSizes(shard=2, context=2),
        "fsdp hybrid ulysses": MeshSizes(replicate=2, context=2),
        "ulysses": MeshSizes(context=4),
    },
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
TARGET_TOKENS = 27

_RECOMPUTE = "vedit.backbones.recompute."
_COMPILE = "vedit.compilation.CompileBlocks"
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks": {"recompute": {"class_path": _RECOMPUTE + "RecomputeBlocks"}},
    "feed-forward": {"recompute": {"class_path": _RECOMPUTE + "RecomputeFeedForward"}},
    "all but attention": {"recompute": {"class_path": _RECOMPUTE + "KeepAttention"}},
    "every second": {"recompute": {"class_path": _RECOMPUTE + "EveryKth", "init_args": {"k": 2}}},
    "offload": {"recompute": {"class_path": _RECOMPUTE + "OffloadInputs"}},
}


@dataclass(frozen=True)
class Difference:
    """Of a spread run from one alone, relative to the largest number of each tensor.

    Attributes:
        loss: of the mean loss.
        gradient: of the gradient that differs most.
        where: its parameter.
        tensors: how many gradients there are.
        tokens: of the target that this rank's head was given.
    """

    loss: float
    gradient: float
    where: str
    tensors: int
    tokens: int


@cache
def alone(tree: str, dtype: str, batches: int) -> tuple[float, dict[str, Tensor]]:
    """The mean loss of so many batches and its gradients, in one process."""
    loss_of = LossOf(build(json.loads(tree), getattr(torch, dtype)))
    losses = [loss_of(number) for number in range(batches)]
    mean = torch.stack(losses).mean()
    mean.backward()
    return float(mean.detach()), gradients(loss_of)


def spread(system: EditSystem, way: str, sizes: MeshSizes) -> int:
    """Spread a system in place, as the strategies do; the number of this rank's batch."""
    plan = build_plan(sizes, "cpu")
    if "fsdp" in way:
        shard(*system.sharding_units(), plan.weights, Sharding())
        assert any(isinstance(parameter, DTensor) for parameter in system.parameters())
    system.share_tokens(plan.context_group)
    return plan.data_rank


def difference(tree: str, plain: str, way: str, sizes: MeshSizes, dtype: str) -> Difference:
    """What this rank sees of the difference between `tree`, spread, and `plain`, alone."""
    expected_loss, expected = alone(plain, dtype, sizes.data)
    system = build(json.loads(tree), getattr(torch, dtype))
    number = spread(system, way, sizes)
    given: list[int] = []
    assert system.model is not None
    system.model.backbone.proj_out.register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0].shape[1])
    )
    loss_of: Any = LossOf(system)
    if way.startswith("ddp"):
        loss_of = DistributedDataParallel(loss_of)
    loss = loss_of(number)
    loss.backward()
    if not way.startswith("ddp"):
        average_gradients(system.parameters())
    found = {n.removeprefix("module."): g for n, g in gradients(loss_of).items()}
    distributed.all_reduce(mean := loss.detach() / distributed.get_world_size())
    assert found.keys() == expected.keys()
    gaps = {n: _relative(found[n], g) for n, g in expected.items()}
    worst = max(gaps, key=gaps.__getitem__)
    off = abs(float(mean) / expected_loss - 1)
    return Difference(off, gaps[worst], worst, len(gaps), given[0])


def _relative(found: Tensor, expected: Tensor) -> float:
    if not expected.any():
        return float("inf") if found.any() else 0.0
    return float((found - expected).abs().max() / expected.abs().max())


@cache
def tree_of(system: str, finetune: str, mode: str = "plain", backend: str | None = None) -> str:
    """The configuration of a nano system, as what travels to ranks."""
    tree = configured(system, finetune, **MODES[mode])
    if backend is not None:
        compiling = {"class_path": _COMPILE, "init_args": {"backend": backend}}
        tree = {**tree, "model": {**tree["model"], "compile": compiling}}
    return json.dumps(tree)


def check(
    ranks: Ranks,
    way: str,
    system: str,
    finetune: str,
    dtype: str = "float64",
    mode: str = "plain",
    backend: str | None = None,
) -> None:
    """Spread one system one way, and compare."""
    trees = tree_of(system, finetune, mode, backend), tree_of(system, finetune)
    sizes = WAYS[ranks.size][way]
    answers: list[Difference] = ranks.run(difference, *trees, way, sizes, dtype)
    worst = max(answers, key=lambda found: found.gradient)
    print(f"{ranks.size} ranks, {way}, {system}, {finetune}, {dtype}, {mode}, {backend}: {worst}")
    for found in answers:
        assert found.loss < TOLERANCE[dtype]
        assert found.gradient < TOLERANCE[dtype], found.where
        assert found.tensors > 25
    # Whoever shares tokens does not compute them all: otherwise all of the above would hold too.
    assert sum(found.tokens for found in answers) == TARGET_TOKENS * sizes.data


@pytest.mark.parametrize(
    ("way", "system", "finetune", "dtype", "mode"),
    [
        ("ddp", "easyv2v", "lora", "float64", "plain"),
        ("fsdp", "mive", "full", "float64", "blocks"),
        ("fsdp", "kiwi_edit", "lora", "float32", "plain"),
        ("ulysses", "easyv2v", "full", "float32", "plain"),
        ("ulysses", "mive", "lora", "float64", "plain"),
        ("ulysses", "kiwi_edit", "lora", "float64", "blocks"),
        ("fsdp ulysses", "easyv2v", "lora", "float64", "blocks"),
        ("fsdp ulysses", "mive", "full", "float32", "all but attention"),
        ("fsdp ulysses", "kiwi_edit", "full", "float64", "plain"),
    ],
)
def test_the_mean_of_two_ranks_is_the_gradient_of_one(two, way, system, finetune, dtype, mode):
    check(two, way, system, finetune, dtype, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "blocks"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("finetune", FINETUNE)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("way", WAYS[2])
def test_every_way_on_two_ranks(two, way, system, finetune, dtype, mode):
    check(two, way, system, finetune, dtype, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("plain", "blocks")])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("way", ["fsdp", "ulysses", "fsdp ulysses"])
def test_every_way_to_compute_activations_again(two, way, system, mode):
    check(two, way, system, "full", "float64", mode)


@pytest.mark.slow
@pytest.mark.parametrize("finetune", FINETUNE)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("way", WAYS[4])
def test_every_way_on_four_ranks(four, way, system, finetune):
    check(four, way, system, finetune)


@pytest.fixture
def compiling(two) -> Iterator[Ranks]:
    """Ranks that forget what they compiled."""
    two.run(torch._dynamo.reset)
    yield two
    two.run(torch._dynamo.reset)


@pytest.mark.slow
@pytest.mark.parametrize("finetune", FINETUNE)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("way", WAYS[2])
def test_every_way_with_blocks_traced(compiling, way, system, finetune):
    check(compiling, way, system, finetune, backend="aot_eager")
