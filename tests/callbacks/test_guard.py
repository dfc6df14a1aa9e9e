"""Bad gradients: skipped without a trace, or the end of training."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.parallel.ranks import run_ranks
from tests.tiny import make_shards, make_system
from torch import Tensor, distributed

from vedit.callbacks.checkpoint import PeriodicCheckpoint
from vedit.callbacks.guard import Guard
from vedit.data.module import EditData
from vedit.errors import ConfigError, TrainingError
from vedit.optim import MuonAdamW


class Spoil(Callback):
    """Multiplies a gradient at some steps, and keeps the weights and the samples of each step."""

    def __init__(self, factors: dict[int, float]) -> None:
        self.factors = factors
        self.weights: list[list[Tensor]] = []
        self.keys: list[tuple[str, ...]] = []

    def on_train_batch_start(self, trainer: Trainer, system: Any, batch: Any, index: int) -> None:
        self.keys.append(batch.keys)

    def on_after_backward(self, trainer: Trainer, system: Any) -> None:
        factor = self.factors.get(trainer.global_step + 1)
        if factor is not None:
            system.model.backbone.proj_out.weight.grad.mul_(factor)

    def on_train_batch_end(self, trainer: Trainer, system: Any, *args: Any) -> None:
        self.weights.append([p.detach().clone() for p in system.model.parameters()])


NAN = float("nan")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def fit(
    folder: Path, shards: Path, factors: dict[int, float], guard: Guard | None, steps: int = 5,
    **changes: Any,
) -> tuple[Trainer, Spoil]:  # fmt: skip
    torch.manual_seed(0)
    spoil = Spoil(factors)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, limit_val_batches=0,
        gradient_clip_val=1.0, default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
        callbacks=[
            *([guard] if guard else []), spoil, PeriodicCheckpoint(every_n_steps=1, keep=-1)
        ],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        trainer.fit(make_system(**changes), EditData(train=str(shards), batch_size=2))
    return trainer, spoil


@pytest.mark.parametrize("optimizer", [None, pytest.param(MuonAdamW, marks=pytest.mark.slow)])
def test_a_skipped_step_leaves_no_trace(
    tmp_path: Path, shards: Path, caplog: pytest.LogCaptureFixture, optimizer: Any
) -> None:
    guard, changes = Guard("skip"), {} if optimizer is None else {"optimizer": optimizer}
    with caplog.at_level(logging.WARNING, "vedit.callbacks.guard"):
        trainer, spoil = fit(tmp_path / "a", shards, {2: NAN, 3: float("inf")}, guard, **changes)
    _, calm = fit(tmp_path / "b", shards, {}, None, **changes)
    assert spoil.keys == calm.keys
    before, *skipped = spoil.weights[:3]
    for weights in skipped:
        assert all(map(torch.equal, before, weights))
    assert not all(map(torch.equal, spoil.weights[3], before))
    assert all(w.isfinite().all() for w in spoil.weights[-1])
    assert (guard.skipped, guard._in_a_row) == (2, 0)
    assert trainer.global_step == 5
    if optimizer is None:
        steps = {int(s["step"]) for s in trainer.optimizers[0].state.values()}
        assert steps == {3}
    records = [record for record in caplog.records if record.name == "vedit.callbacks.guard"]
    told = [record.getMessage() for record in records]
    assert len(told) == 2
    assert told[0].startswith("step 2: the gradients are infinite or no numbers; samples: ")
    assert all(key in told[0] for key in spoil.keys[1])


def test_too_many_in_a_row_end_training(tmp_path: Path, shards: Path) -> None:
    spoilt = dict.fromkeys(range(2, 9), NAN)
    with pytest.raises(TrainingError, match=r"step 4: .*; 3 such steps in a row, .*patience is 2"):
        fit(tmp_path, shards, spoilt, Guard("skip", patience=2), steps=9)


def test_a_bad_step_ends_training_before_it_is_stored(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 3: .* no numbers; samples: train-\d+, train"):
        fit(tmp_path, shards, {3: NAN}, Guard())
    stored = sorted(tmp_path.rglob("*.ckpt"))
    assert [path.name for path in stored] == ["last.ckpt", "step_0000001.ckpt", "step_0000002.ckpt"]
    last = torch.load(stored[0], weights_only=True)
    assert last["global_step"] == 2
    assert all(t.isfinite().all() for t in last["state_dict"].values())


def test_the_last_step_is_judged_too(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(TrainingError, match="step 2: "):
        fit(tmp_path, shards, {2: NAN}, Guard(), steps=2)


def test_spikes_are_judged_by_the_median(tmp_path: Path, shards: Path) -> None:
    guard = Guard("skip", spike=20.0, window=20)
    fit(tmp_path, shards, {1: 1e4, 5: 1e4}, guard, steps=6)  # the first has nothing to go by
    assert guard.skipped == 1
    assert len(guard._norms) == 5
    again = Guard("skip", spike=20.0, window=20)
    again.load_state_dict(guard.state_dict())
    assert again.state_dict() == guard.state_dict()


@pytest.mark.parametrize("wrong", [{"spike": 1.0}, {"window": 3}, {"patience": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Guard"):
        Guard(**wrong)


class Reducing:
    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "max"
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor


def judged(action: str) -> list[Any]:
    """Two steps, the second of which only rank 1 finds bad."""
    guard = Guard(action)  # type: ignore[arg-type]
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trainer = SimpleNamespace(
        world_size=2, strategy=Reducing(), global_step=0, global_rank=distributed.get_rank()
    )
    found: list[Any] = []
    for step in range(3):
        trainer.global_step = step
        bad = step == 1 and distributed.get_rank() == 1
        weight.grad = torch.full((2,), NAN if bad else 1.0)
        guard._keys = [f"{step}"]
        try:
            guard.on_before_optimizer_step(trainer, None, optimizer)  # type: ignore[arg-type]
        except TrainingError as error:
            return [*found, str(error)[:7]]
        found.append(weight.grad is None)
    return found


@pytest.mark.slow
def test_ranks_judge_alike() -> None:
    assert run_ranks(2, judged, "skip") == [[False, True, False]] * 2
    assert run_ranks(2, judged, "stop") == [[False, False, "step 2:"]] * 2
