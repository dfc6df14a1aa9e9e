"""Ctrl-C that one rank hears ends all of them at one step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.parallel.ranks import run_ranks
from torch import distributed

from vedit.callbacks.checkpoint import Interrupted, StopOnInterrupt


class Reducing:
    root_device = torch.device("cpu")

    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor


def stopped_at() -> int:
    stop = StopOnInterrupt()
    trainer = SimpleNamespace(
        world_size=2, strategy=Reducing(), accumulate_grad_batches=1,
        checkpoint_callback=None, log_dir=None, global_step=0,
    )  # fmt: skip
    for step in range(10):
        trainer.global_step = step
        stop.requested |= step == 3 and distributed.get_rank() == 1
        try:
            stop.on_train_batch_end(trainer, None, None, None, step)
        except Interrupted:
            return step
    return -1


@pytest.mark.slow
def test_all_ranks_stop_at_the_step_after() -> None:
    assert run_ranks(2, stopped_at) == [4, 4]
