"""`EditData` under a real trainer: what it serves, and that resuming changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tests.data.samples import sample, write_folder
from tests.data.test_cache import Letters, Pooling
from torch import Tensor

from vedit.batch import EditBatch
from vedit.data.encode import encode_shards
from vedit.data.module import EditData
from vedit.errors import ConfigError, DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`tensorboardX` has been removed"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]


class Recorder(LightningModule):
    """Trains one weight and writes down which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.codec, self.context = Pooling(), Letters()
        self.seen: list[tuple[str, ...]] = []
        self.validated: list[EditBatch] = []

    def training_step(self, batch: EditBatch, index: int) -> Tensor:
        self.seen.append(batch.keys)
        return (self.weight - 1).square()

    def validation_step(self, batch: EditBatch, index: int) -> None:
        self.validated.append(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(root: Path, **arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": root, "num_sanity_val_steps": 1,
        "enable_checkpointing": False,
    }  # fmt: skip
    return Trainer(**{**defaults, **arguments})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten samples, two of them masked: batches of 2 make 4 + 1 in an epoch."""
    write_folder(tmp_path / "data", [sample(i, mask=i > 7) for i in range(10)])
    return tmp_path / "data"


@pytest.mark.parametrize(("steps", "workers"), [(2, 0), (5, 0), (7, 0), (7, 1)])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    folder: Path, tmp_path: Path, steps: int, workers: int
) -> None:
    def data() -> EditData:
        return EditData(str(folder), str(folder), batch_size=2, seed=5, num_workers=workers)

    whole = Recorder()
    trainer(tmp_path, max_steps=12, max_epochs=-1).fit(whole, data())
    assert len(whole.seen) == 12
    assert sorted(k for keys in whole.seen[:5] for k in keys) == [
        f"train-{i:07d}" for i in range(10)
    ]
    first, rest = Recorder(), Recorder()
    before = trainer(tmp_path, max_steps=steps, max_epochs=-1)
    before.fit(first, data())
    before.save_checkpoint(tmp_path / "step.ckpt", weights_only=False)
    trainer(tmp_path, max_steps=12, max_epochs=-1).fit(
        rest, data(), ckpt_path=tmp_path / "step.ckpt"
    )
    assert first.seen + rest.seen == whole.seen


@pytest.mark.parametrize("workers", [0, 1])
def test_turns_go_on_where_a_run_stopped(folder: Path, tmp_path: Path, workers: int) -> None:
    """Two folders of different length in strict turns, stopped in the middle of a cycle."""
    write_folder(tmp_path / "more", [sample(i, reference=True) for i in range(20, 23)])

    def data() -> EditData:
        folders, turns = [str(folder), str(tmp_path / "more")], {"video": 2, "reference": 1}
        return EditData(folders, batch_size=1, seed=5, turns=turns, num_workers=workers)

    whole, first, rest = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_steps=12, max_epochs=-1).fit(whole, data())
    kinds = ["reference" if keys[0] >= "train-0000020" else "video" for keys in whole.seen]
    assert kinds == ["video", "reference", "video"] * 4
    before = trainer(tmp_path, max_steps=7, max_epochs=-1)
    before.fit(first, data())
    before.save_checkpoint(tmp_path / "step.ckpt", weights_only=False)
    resumed = trainer(tmp_path, max_steps=12, max_epochs=-1)
    resumed.fit(rest, data(), ckpt_path=tmp_path / "step.ckpt")
    assert first.seen + rest.seen == whole.seen


def test_short_epochs_go_on_through_the_data(folder: Path, tmp_path: Path) -> None:
    """With limit_train_batches the next epoch continues instead of repeating its start."""
    seen = Recorder()
    trainer(tmp_path, max_epochs=2, limit_train_batches=2).fit(
        seen, EditData(str(folder), batch_size=2)
    )
    keys = [k for batch in seen.seen for k in batch]
    assert len(keys) == len(set(keys)) == 8


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_batches_pass_through_a_trainer(folder: Path, tmp_path: Path, precision: Any) -> None:
    model = Recorder()
    trainer(tmp_path, max_steps=2, precision=precision).fit(
        model, EditData(str(folder), str(folder), batch_size=3)
    )
    assert model.validated[0].videos["source"].shape == (3, 3, 5, 16, 24)


def test_caches_are_used_when_they_are_complete_and_fresh(folder: Path, tmp_path: Path) -> None:
    encode_shards(folder, Pooling(), Letters(), progress=lambda _: None)
    model = Recorder()
    data = EditData(str(folder), str(folder), str(folder), batch_size=2)
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    run.fit(model, data)
    batch = model.validated[0] if model.validated else next(iter(data.val_dataloader()))
    assert set(batch.latents) == {"source", "target"}
    assert batch.videos == {}
    assert batch.features is not None
    tested = next(iter(data.test_dataloader()))
    assert set(tested.videos) == {"source", "target"}  # metrics want pixels
    assert set(tested.latents) == {"source", "target"}
    model.stored_features_hold = False  # as when its tower trains
    assert next(iter(data.val_dataloader())).features is None
    model.codec = Pooling("trained further")
    with pytest.raises(DataError, match="stale, made by pooling"):
        trainer(tmp_path, max_steps=1).fit(model, data)


def test_never_and_always(folder: Path) -> None:
    with pytest.raises(DataError, match="0 of 10 samples have cached latents"):
        EditData(str(folder), latents="always").train_dataloader()
    encode_shards(folder, Pooling(), progress=lambda _: None)
    always = next(iter(EditData(str(folder), latents="always").train_dataloader()))
    assert always.videos == {}
    never = next(iter(EditData(str(folder), latents="never").train_dataloader()))
    assert never.latents == {}
    assert "target" in never.videos


def test_weights_of_a_mixture(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "more", [sample(i) for i in range(20, 24)])
    data = EditData({str(folder): 0.5, str(tmp_path / "more"): 2.0}, batch_size=1)
    keys = [batch.keys[0] for batch in data.train_dataloader()]
    assert len(keys) == 5 + 8
    assert sum(key >= "train-0000020" for key in keys) == 8


def test_evaluation_serves_every_sample_once_in_order(folder: Path) -> None:
    data = EditData(validation=[str(folder)], batch_size=1, eval_batch_size=4)
    keys = [key for batch in data.val_dataloader() for key in batch.keys]
    assert keys == [f"train-{i:07d}" for i in range(10)]


def test_what_is_missing_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index.jsonl here"):
        EditData(str(tmp_path)).setup("fit")
    with pytest.raises(ConfigError, match=r"data\.train: expected at least one folder"):
        EditData().train_dataloader()
    assert EditData().val_dataloader() == []


@pytest.mark.parametrize(
    ("stage", "key"), [("validate", "validation"), ("test", "test"), ("predict", "test")]
)
def test_evaluating_on_nothing_is_an_error_not_a_run_of_no_batches(
    folder: Path, tmp_path: Path, stage: str, key: str
) -> None:
    call = getattr(trainer(tmp_path), stage)
    with pytest.raises(ConfigError, match=rf"data\.{key}: expected at least one folder"):
        call(Recorder(), EditData(train=str(folder)))


def test_training_without_validation_leaves_the_trainer_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    run = trainer(tmp_path, max_steps=1, limit_val_batches=2)
    run.fit(Recorder(), EditData(train=str(folder)))
    assert run.limit_val_batches == 2


def test_overfitting_is_a_matter_of_the_data(folder: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1, overfit_batches=1)
    with pytest.raises(ConfigError, match=r"trainer\.overfit_batches: got 1; .* data\.limit"):
        run.fit(Recorder(), EditData(train=str(folder)))


def test_batches_by_tokens_under_a_trainer(folder: Path, tmp_path: Path) -> None:
    """Two kinds of samples, of 24 and 48 tokens: as many as 100 tokens have room for."""

    class Counting(Recorder):
        def tokens_of(self, video: tuple[int, int, int], present: tuple[str, ...]) -> int:
            return 48 if "mask" in present else 24

    seen = Counting()
    trainer(tmp_path, max_epochs=1).fit(seen, EditData(str(folder), tokens_per_batch=100))
    assert sorted(map(len, seen.seen)) == [2, 4, 4]  # two with a mask, eight without
    with pytest.raises(ConfigError, match="tokens_per_batch: needs a model"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), EditData(str(folder), tokens_per_batch=9))


def test_ranks_are_those_that_the_strategy_deals_data_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers of one sequence share their batches: the strategy says so, not the world size."""

    def keys(rank: int, ranks: int) -> list[tuple[str, ...]]:
        data = EditData(str(folder), batch_size=1, seed=3)
        kwargs = {"rank": rank, "num_replicas": ranks}
        data.trainer = SimpleNamespace(
            distributed_sampler_kwargs=kwargs, lightning_module=None, world_size=4
        )
        return [batch.keys for batch in data.train_dataloader()]

    alone, first, second = keys(0, 1), keys(0, 2), keys(1, 2)
    assert len(first) == len(second) == 5
    assert {key for step in (*first, *second) for key in step} == {k for s in alone for k in s}
    assert not set(first) & set(second)


def test_reading_ahead_needs_a_reader(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.prefetch_factor: .* set data.num_workers"):
        EditData(str(folder), prefetch_factor=4)
    loader = EditData(str(folder), prefetch_factor=3, num_workers=1).train_dataloader()
    assert (loader.prefetch_factor, loader.num_workers) == (3, 1)


def test_a_batch_goes_to_a_gpu_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def to(self: EditBatch, device: Any, non_blocking: bool, on_host: Any) -> EditBatch:
        asked.append(non_blocking)
        return self

    monkeypatch.setattr(EditBatch, "to", to)
    for device in ("cuda", "cpu"):
        EditData().transfer_batch_to_device(EditBatch((), ()), torch.device(device), 0)
    assert asked == [True, False]
