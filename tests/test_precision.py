"""`trainer.precision: bf16-true`: half weights, whole noise, and the codec as configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.tiny import built, make_batch, make_shards
from torch import Tensor

from vedit.data.module import EditData
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.system import EditSystem

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
]


class Seen(Callback):
    """What the model is given, and the loss."""

    def on_train_start(self, trainer: Trainer, system: EditSystem) -> None:
        model = system.model
        assert model is not None
        model.register_forward_pre_hook(self.note)

    def note(self, model: Any, arguments: tuple[Tensor, Tensor, Any]) -> None:
        self.x_t, self.sigma, self.conditions = arguments

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.loss = float(trainer.callback_metrics["train/loss"])


def step(folder: Path, precision: str, **changes: Any) -> tuple[EditSystem, Seen]:
    system, seen = built(**changes), Seen()
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=1,
        limit_val_batches=0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
    )
    trainer.fit(system, EditData(train=str(folder), batch_size=2))
    trainer.save_checkpoint(folder / f"{precision}.ckpt")
    return system, seen


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), 2)


def dtypes(tensors: Any) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors}


@pytest.mark.parametrize("finetune", [FinetunePlan(), FinetunePlan(backbone=LoRA(rank=2))])
def test_a_step_in_half_weights_is_that_in_whole_ones_but_for_rounding(
    shards: Path, finetune: FinetunePlan
) -> None:
    _, whole = step(shards, "32-true", finetune=finetune)
    system, half = step(shards, "bf16-true", finetune=finetune)
    assert torch.equal(half.x_t, whole.x_t)  # noise, interpolation and codec in float32
    assert torch.equal(half.sigma, whole.sigma)
    assert half.loss == pytest.approx(whole.loss, rel=0.01)
    assert half.loss != whole.loss
    assert dtypes(system.model.parameters()) == {torch.bfloat16}
    assert dtypes(system.context.connector.parameters()) == {torch.bfloat16}
    assert dtypes(system.codec.parameters()) == {torch.float32}
    assert dtypes(system.context.tower.parameters()) == {torch.float32}
    saved = torch.load(shards / "bf16-true.ckpt", weights_only=True)["state_dict"]
    assert dtypes(saved.values()) == {torch.bfloat16}


def test_a_half_checkpoint_continues_and_edits(shards: Path) -> None:
    trained, _ = step(shards, "bf16-true")
    saved = torch.load(shards / "bf16-true.ckpt", weights_only=True)["state_dict"]
    fresh = built()
    fresh.load_trained(saved, "bf16-true.ckpt")  # into whole weights
    for key, tensor in trained.trained_state().items():
        assert torch.equal(fresh.trained_state()[key], tensor.float()), key
    edit = trained.predict_step(make_batch(), 0)["edit"]
    assert edit.dtype == torch.float32
    assert edit.isfinite().all()


def test_mixed_precision_is_lightnings_own(shards: Path) -> None:
    system, seen = step(shards, "bf16-mixed")
    assert dtypes(system.model.parameters()) == {torch.float32}
    assert seen.x_t.dtype == torch.float32
