"""A training step never asks the device for a value, which would make the host wait for it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.golden import training
from tests.syncs import Syncs
from tests.tiny import make_shards, make_system, shake
from torch import Tensor

from vedit.batch import EditBatch
from vedit.callbacks.checkpoint import StopOnInterrupt
from vedit.callbacks.throughput import Throughput
from vedit.conditioning.dropout import ConditionDropout
from vedit.context.apart import features_apart
from vedit.data.encode import encode_shards
from vedit.data.module import EditData
from vedit.system import EditSystem
from vedit.transfer import Late, sent


def with_features(system: EditSystem, batch: EditBatch) -> EditBatch:
    """The batch as it comes from a cache."""
    images: dict[str, Tensor] = {k: v for k, v in batch.videos.items() if k != "target"}
    with torch.no_grad():
        features = features_apart(system.context.features, batch.instruction, images, batch.shown)
    return replace(batch, features=features)


@pytest.mark.parametrize(
    "name",
    [
        "easyv2v",
        pytest.param("mive", marks=pytest.mark.slow),
        pytest.param("kiwi_edit", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")
def test_a_step_from_stored_features_asks_for_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward of the nano systems, with references and dropped instructions."""
    found: list[str] = []
    step, backward = EditSystem.training_step, EditSystem.backward

    def watched(self: EditSystem, batch: EditBatch, index: int) -> Tensor:
        batch = with_features(self, batch)
        self.context.null(len(batch))  # what is made once is made now
        with Syncs() as syncs:
            loss = step(self, batch, index)
        found.extend(syncs.found)
        return loss

    def watched_backward(self: EditSystem, *args: Any, **kwargs: Any) -> None:
        with Syncs() as syncs:
            backward(self, *args, **kwargs)
        found.extend(syncs.found)

    monkeypatch.setattr(EditSystem, "training_step", watched)
    monkeypatch.setattr(EditSystem, "backward", watched_backward)
    monkeypatch.setattr(training, "STEPS", 3)
    monkeypatch.chdir(tmp_path)
    assert len(training.losses_of(name, tmp_path)) == 3
    assert found == []


def test_the_watch_sees_what_it_is_there_for() -> None:
    x = torch.arange(4.0)
    with Syncs() as syncs:
        float(x.sum())
        x[x > 1]
        x.nonzero()
        if (x > 0).any():
            pass
    assert [one.split()[0] for one in syncs.found] == [
        "_local_scalar_dense", "index", "nonzero", "_local_scalar_dense"
    ]  # fmt: skip
    with Syncs() as syncs:
        x.tolist()
        x.masked_fill(x > 1, 0).sum()
    assert syncs.found == []


def test_transfers_on_a_cpu_are_plain() -> None:
    x = torch.arange(3)
    assert sent(x, torch.device("cpu")) is x
    late = Late(x)
    x += 1
    assert late.ready()
    assert late.read().tolist() == [0, 1, 2]


def test_features_that_are_asked_stay_on_the_host() -> None:
    features = {"length": torch.ones(2), "hidden": torch.ones(2, 3)}
    batch = EditBatch(("a", "b"), ("a", "b"), latents={"x": torch.ones(2)}, features=features)
    moved = batch.to("meta", on_host=("length",))
    kinds: Mapping[str, Tensor] = moved.features or {}
    assert (kinds["length"].device.type, kinds["hidden"].device.type) == ("cpu", "meta")
    assert moved.latents["x"].device.type == "meta"


class Forbid(Callback):
    """Make CUDA raise where the host would wait, from the fourth step on."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step > 2 else "default")


class Allow(Callback):
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    on_exception = on_train_batch_end


@pytest.mark.gpu
def test_a_gpu_is_never_waited_for(tmp_path: Path) -> None:
    """Whole steps of a trainer: transfer, noise, model, clipping, optimizer, callbacks, logging."""
    shards = make_shards(tmp_path / "shards")
    system = make_system(dropout=ConditionDropout(instruction=0.5))
    system.configure_model()
    shake(system)
    encode_shards(shards, system.codec, system.context, progress=lambda _: None)
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=8,
        max_epochs=-1,
        gradient_clip_val=1.0,
        log_every_n_steps=100,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Forbid(), Throughput(), StopOnInterrupt(), Allow()],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        data = EditData(train=str(shards), batch_size=2, pin_memory=True, latents="always")
        trainer.fit(system, data)
    assert trainer.global_step == 8
