"""Trainings whose ranks share the tokens of each sample: step for step those of one process."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tests.tiny import make_shards, make_system
from torch import Tensor

from vedit.conditioning.dropout import ConditionDropout
from vedit.data.module import EditData
from vedit.distributed.fsdp2 import FSDP2
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan


def trained(shards: str, devices: int, strategy: dict[str, Any] | None) -> dict[str, Tensor]:
    """What trains after three steps, with conditions left out at random."""
    plan = FinetunePlan(backbone=LoRA(rank=2), connector=Full(), injections=Full())
    dropout = ConditionDropout(instruction=0.5, source=0.3)
    system = make_system(dropout=dropout, finetune=plan, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer = Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="auto" if strategy is None else FSDP2(**strategy),
            max_steps=3,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(system, EditData(train=shards, batch_size=2, seed=3))
    state = system.trained_state()
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}


@pytest.mark.parametrize("shard", [None, 1])
def test_ranks_that_share_tokens_draw_and_step_as_one_process(two, tmp_path, shard):
    """Data, noise, noise levels and what is left out are those of the one data rank there is."""
    shards = str(make_shards(tmp_path / "shards"))
    alone = trained(shards, 1, None)
    first, second = two.run(trained, shards, 2, {"shard": shard, "context": 2})
    assert any(tensor.any() for name, tensor in alone.items() if "lora_B" in name)
    assert first.keys() == alone.keys()
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=2e-5, msg=name)
