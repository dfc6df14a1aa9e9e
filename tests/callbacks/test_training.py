"""The callbacks of a training, on a real one of a few steps."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.tiny import make_shards, make_system

from vedit.callbacks.checkpoint import PeriodicCheckpoint
from vedit.callbacks.progress import LogProgress, clock
from vedit.callbacks.samples import SampleVideos, animation, side_by_side
from vedit.callbacks.summary import SystemSummary
from vedit.callbacks.throughput import Throughput
from vedit.data.module import EditData
from vedit.errors import ConfigError
from vedit.video import read_video

SAMPLES = SampleVideos(every_n_steps=2, samples=3, steps=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps with every callback."""
    folder = tmp_path_factory.mktemp("run")
    shards = str(make_shards(folder / "shards"))
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=4,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        logger=TensorBoardLogger(str(folder), name="tiny", version=""),
        callbacks=[
            PeriodicCheckpoint(every_n_steps=3, keep=2),
            LogProgress(every_n_steps=2),
            SystemSummary(),
            Throughput(window=2),
            SAMPLES,
        ],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        data = EditData(train=shards, validation=shards, batch_size=2)
        trainer.fit(make_system(), data)
    return folder / "tiny"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"images": 0}).Reload()


def test_samples_are_source_edit_and_target_side_by_side(run: Path) -> None:
    rounds = sorted(path.name for path in (run / "samples").iterdir())
    assert rounds == ["step_0000002", "step_0000004"]
    folder = run / "samples" / "step_0000004"
    videos = sorted(folder.glob("*.mp4"))
    assert len(videos) == 3
    clip = read_video(videos[0])
    frames = getattr(clip, "frames", clip)
    assert tuple(frames.shape[:3]) == (5, 16, 3 * 24)
    source, target = frames[:, :, :24].float(), frames[:, :, 48:].float()
    assert (source + target - 255).abs().mean() < 12  # the target of these samples is the negative
    rows = (folder / "instructions.tsv").read_text().splitlines()
    assert rows[0].split("\t")[1] == "Make it negative"


def test_tensorboard_holds_playable_animations(events: EventAccumulator) -> None:
    tags = events.Tags()["images"]
    assert len(tags) == 3
    shown = events.Images(tags[0])
    assert [image.step for image in shown] == [2, 4]
    assert (shown[0].height, shown[0].width) == (16, 72)
    with Image.open(io.BytesIO(shown[0].encoded_image_string)) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames > 1
        assert gif.size == (72, 16)


def test_speed_is_logged(events: EventAccumulator) -> None:
    def values(name: str) -> list[float]:
        return [event.value for event in events.Scalars(f"speed/{name}")]

    assert len(values("samples_per_second")) == 4
    assert all(value > 0 for value in values("step_seconds"))
    # Two samples of 12 target and 12 source tokens a step.
    ratios = [
        t / s
        for t, s in zip(values("tokens_per_second"), values("samples_per_second"), strict=True)
    ]
    assert ratios == pytest.approx([24] * 4)


def test_losses_are_logged(events: EventAccumulator) -> None:
    assert [event.step for event in events.Scalars("val/loss")] == [1, 3]
    assert {f"val/loss_at_{level}" for level in (0.1, 0.3, 0.5, 0.7, 0.9)} <= set(
        events.Tags()["scalars"]
    )


def test_checkpoints_are_periodic_and_the_last_is_of_the_last_step(run: Path) -> None:
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["last.ckpt", "step_0000003.ckpt"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4


def test_throughput_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 4.0, 100.0, 102.0, 102.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    speed = Throughput()
    system = torch.nn.Module()
    system.model = torch.nn.Module()
    system.model.backbone = torch.nn.Identity()
    trainer = SimpleNamespace(accumulate_grad_batches=4, global_step=0, log_every_n_steps=1)
    speed.on_train_start(trainer, system)  # 0
    speed.on_train_batch_start(trainer, system)  # 1: waited 1
    speed.on_train_batch_end(trainer, system, None, [1, 2], 0)  # 4: worked 3
    speed.on_validation_start(trainer, system)
    speed.on_train_batch_start(trainer, system)  # 100: validation, not waiting
    speed.on_train_batch_end(trainer, system, None, [1, 2], 1)  # 102: worked 2
    assert speed.rates(ranks=2) == {
        "speed/samples_per_second": 2 * 4 / 6,
        "speed/tokens_per_second": 0.0,
        "speed/data_seconds": 0.5,
        "speed/step_seconds": 2.5,
    }


def test_progress_lines_read_well(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LogProgress(every_n_steps=10)
    progress._start = (0.0, 0)
    metrics = {"train/loss": torch.tensor(0.41234), "lr": torch.tensor(1.0)}
    trainer = type("T", (), {"global_step": 20, "max_steps": 60, "callback_metrics": metrics})()
    parts = progress.line(trainer).split("  ")
    assert parts[:2] == ["step 20/60", "train/loss 0.4123"]
    assert parts[2].endswith("steps/s")
    assert parts[3].endswith("left")
    assert clock(3725) == "1:02:05"


def test_an_animation_keeps_every_frame() -> None:
    frames = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 8, 8, 3) * 60
    with Image.open(io.BytesIO(animation(frames, fps=5))) as gif:
        shown = []
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(gif.convert("RGB").getpixel((0, 0))[0])
            assert gif.info["duration"] == 200
    assert shown == [0, 60, 120, 180]


def test_strips_span_black_to_white() -> None:
    dark, light = -torch.ones(1, 3, 2, 4, 4), torch.ones(1, 3, 2, 4, 4)
    strip = side_by_side([dark, light])
    assert strip.shape == (1, 2, 4, 8, 3)
    assert (strip[..., :4, :] == 0).all()
    assert (strip[..., 4:, :] == 255).all()


@pytest.mark.parametrize("name", ["every_n_steps", "samples"])
def test_impossible_numbers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"SampleVideos.{name}: must be at least 1, got 0"):
        SampleVideos(**{name: 0})
