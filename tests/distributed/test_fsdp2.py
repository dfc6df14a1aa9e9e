"""Trainings on several ranks: the same steps as on one, and checkpoints that any number reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.spreading import fit, refusal
from tests.parallel.ranks import Ranks
from tests.tiny import make_shards

from vedit.finetune.trained import read_trained
from vedit.parallel.checkpoint import contents, is_sharded


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with Ranks(2, timeout=300) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), 8)


@pytest.fixture(scope="module")
def alone(shards: Path) -> Any:
    """What one process makes of four steps, by finetuning plan."""
    return {plan: fit(shards, strategy=None, finetune=plan, steps=4) for plan in ("full", "lora")}


def run(shards: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return fit(shards, **settings)


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    # AdamW divides by the root of small squares, so rounding shows larger than in gradients.
    assert one.keys() == two.keys()
    return all(torch.allclose(one[name], two[name], rtol=1e-4, atol=2e-5) for name in one)


def same_steps(found: list[dict[str, Any]], alone: dict[str, Any], first: int = 0) -> None:
    for rank in found:
        assert close(rank["state"], alone["state"])
    for step, keys in enumerate(alone["keys"][first:]):
        seen = [key for rank in found for key in rank["keys"][step]]
        # Ranks that share tokens have the same samples.
        assert sorted(seen) == sorted([*keys] * (len(seen) // len(keys)))


@pytest.mark.parametrize(
    ("plan", "strategy", "more"),
    [
        ("full", {}, {}),
        ("lora", {"frozen": "replicated"}, {}),
        ("lora", {"shard": None}, {"accumulate_grad_batches": 2}),
        pytest.param("full", {"shard": None}, {}, marks=pytest.mark.slow),
        pytest.param("full", {"context": 2}, {}, marks=pytest.mark.slow),
        pytest.param("lora", {"shard": None, "context": 2}, {}, marks=pytest.mark.slow),
        pytest.param("lora", {}, {"compiled": True}, marks=pytest.mark.slow),
        pytest.param("connector", {}, {}, marks=pytest.mark.slow),
        pytest.param("connector", {"frozen": "replicated"}, {}, marks=pytest.mark.slow),
        pytest.param("lora", {"shard": 1, "replicate": 2}, {}, marks=pytest.mark.slow),
        pytest.param("full", {}, {"accumulate_grad_batches": 2}, marks=pytest.mark.slow),
        pytest.param(
            "full", {"load_in_turn": True, "reshard_after_forward": False}, {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "full", {}, {"gradient_clip_algorithm": "value", "gradient_clip_val": 1e-3},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_two_ranks_take_the_steps_of_one(
    plan: str, strategy: dict[str, Any], more: dict[str, Any], shards: Path, alone: Any, two: Ranks
) -> None:
    settings = {"finetune": plan, "steps": 4, **more}
    known = plan in alone and not more
    expected = alone[plan] if known else fit(shards, strategy=None, **settings)
    same_steps(two.run(run, shards, {"strategy": strategy, **settings}), expected)


@pytest.mark.parametrize("optimizer", ["muon", "fused"])
def test_optimizers_step_what_is_in_pieces_and_what_is_whole(
    optimizer: str, shards: Path, two: Ranks
) -> None:
    # Full finetuning with the connector, which stays whole.
    settings: dict[str, Any] = {"finetune": "full", "optimizer": optimizer}
    pieces = two.run(run, shards, {"strategy": {}, "steps": 1, **settings})[0]["state"]
    whole = two.run(run, shards, {"strategy": {"shard": None}, "steps": 1, **settings})[0]["state"]
    assert close(pieces, whole)
    before, alone = (fit(shards, strategy=None, steps=n, **settings)["state"] for n in (0, 1))
    for name, tensor in alone.items():
        # The mean over ranks rounds otherwise, and Muon orthogonalises in bfloat16.
        step = tensor - before[name]
        assert (pieces[name] - tensor).norm() < 0.02 * step.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "strategy"),
    [
        ("bf16-mixed", {}),
        ("bf16-mixed", {"compute_dtype": "bfloat16", "reduce_dtype": "float32"}),
        ("bf16-mixed", {"shard": None, "reduce_dtype": "bfloat16"}),
        ("bf16-true", {"frozen": "replicated", "reduce_dtype": "bfloat16"}),
        ("32-true", {"compute_dtype": "bfloat16", "reduce_dtype": "bfloat16"}),
    ],
)
def test_number_formats(precision: str, strategy: dict[str, Any], shards: Path, two: Ranks) -> None:
    # One step of plain descent shows the gradient as it is, rounded to half precision.
    settings: dict[str, Any] = {"finetune": "lora", "precision": precision, "rate": 0.1}
    before = fit(shards, strategy=None, steps=0, **settings)["state"]
    alone = fit(shards, strategy=None, steps=1, **settings)["state"]
    found = two.run(run, shards, {**settings, "strategy": strategy, "steps": 1})[0]["state"]
    kept = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {tensor.dtype for name, tensor in found.items() if "model." in name} == {kept}
    for name, tensor in alone.items():
        first = before[name].float()
        step, other = tensor.float() - first, found[name].float() - first
        rounding = 2**-8 * first.norm() if kept is torch.bfloat16 else 0.0
        assert (step - other).norm() < 0.05 * step.norm() + rounding + 1e-5


def test_weights_lie_where_the_strategy_says(shards: Path, two: Ranks) -> None:
    settings = {"strategy": {"frozen": "replicated"}, "finetune": "lora", "steps": 1}
    kinds = two.run(run, shards, settings)[0]["kinds"]
    pieces = {name for name, kind in kinds.items() if kind == "DTensor"}
    injected = {name for name in kinds if name.startswith("injections.")}
    assert pieces == {name for name in kinds if ".lora_" in name} | injected


def test_heads_that_ranks_cannot_divide_are_refused_before_anything_is_read(two: Ranks) -> None:
    for said, kinds in two.run(refusal, 3, 2):
        assert "trainer.strategy.context: the backbone's 3 attention heads" in said
        assert said.endswith("among 2 ranks; the nearest that fit: 1 and 3")
        assert kinds == {"Parameter"}  # none is in pieces


@pytest.mark.parametrize("plan", ["full", "lora"])
def test_a_checkpoint_of_two_ranks_goes_on_anywhere(
    plan: str, shards: Path, alone: Any, two: Ranks, tmp_path: Path
) -> None:
    folder = tmp_path / "step_2.ckpt"
    settings: dict[str, Any] = {"strategy": {}, "finetune": plan}
    two.run(run, shards, {**settings, "steps": 2, "save": folder})
    assert is_sharded(folder)
    assert read_trained(folder).keys() == alone[plan]["state"].keys()

    again = two.run(run, shards, {**settings, "steps": 4, "resume": folder})
    same_steps(again, alone[plan], first=2)
    one = fit(shards, strategy=None, finetune=plan, steps=4, resume=folder)
    assert one["keys"] == alone[plan]["keys"][2:]
    assert close(one["state"], alone[plan]["state"])


def test_a_file_of_one_process_goes_on_on_two_ranks(
    shards: Path, alone: Any, two: Ranks, tmp_path: Path
) -> None:
    file = tmp_path / "step_2.ckpt"
    fit(shards, strategy=None, steps=2, save=file)
    assert file.is_file()
    found = two.run(run, shards, {"strategy": {}, "steps": 4, "resume": file})
    same_steps(found, alone["full"], first=2)


def test_lora_writes_the_adapter_and_what_else_trains(
    shards: Path, two: Ranks, tmp_path: Path
) -> None:
    folder = tmp_path / "lora.ckpt"
    two.run(run, shards, {"strategy": {}, "finetune": "lora", "steps": 1, "save": folder})
    backbone = [name for name in contents(folder) if "backbone" in name]
    assert backbone
    assert all(".lora_" in name for name in backbone)


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_goes_on_on_four(
    shards: Path, alone: Any, two: Ranks, tmp_path: Path
) -> None:
    folder = tmp_path / "step_2.ckpt"
    two.run(run, shards, {"strategy": {}, "steps": 2, "save": folder})
    with Ranks(4, timeout=400) as four:
        for strategy in ({}, {"shard": 2, "replicate": 2}):
            settings = {"strategy": strategy, "steps": 4, "resume": folder}
            same_steps(four.run(run, shards, settings), alone["full"], first=2)
