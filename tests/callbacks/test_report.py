"""A test of a real, if untrained, run ends in a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tests.clips import moving
from tests.tiny_run import FRAMES, HEIGHT, WIDTH, config, fit

from vedit.batch import EditBatch
from vedit.callbacks.report import EditReport, TrainClock, clip_size, edited_samples
from vedit.cli import main
from vedit.data.transforms import to_model_range
from vedit.errors import DataError
from vedit.video import probe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    fit(folder, steps=2)
    return folder


def test_a_checkpoint_says_how_long_it_was_trained_and_on_what(folder: Path) -> None:
    path = folder / "runs" / "tiny" / "checkpoints" / "last.ckpt"
    facts = torch.load(path, weights_only=True)["vedit"]
    assert facts["steps"] == 2
    assert 0 < facts["train_seconds"] < 120
    assert facts["clip_size"] == [FRAMES, HEIGHT, WIDTH]


def test_resuming_adds_to_the_time(tmp_path: Path) -> None:
    last = fit(tmp_path, steps=1) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["vedit"]["train_seconds"] = 1000.0
    slow = tmp_path / "slow.ckpt"
    torch.save(checkpoint, slow)
    further = config(tmp_path, steps=2)
    assert main(["fit", "--config", str(further), "--ckpt_path", str(slow)]) == 0
    facts = torch.load(last, weights_only=True)["vedit"]
    assert facts["steps"] == 2
    assert 1000 < facts["train_seconds"] < 1120


def test_the_clock_stands_still_when_nothing_trains() -> None:
    clock = TrainClock()
    assert clock.seconds == 0
    clock.on_train_start(None, None)  # type: ignore[arg-type]
    clock.on_train_end(None, None)  # type: ignore[arg-type]
    assert clock.seconds == clock.seconds > 0


def test_a_test_writes_the_report_of_the_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "runs" / "tiny"
    last = run / "checkpoints" / "last.ckpt"
    code = main(["test", "--config", str(folder / "tiny.yaml"), "--ckpt_path", str(last)])
    assert code == 0
    report = json.loads((run / "report.json").read_text())
    assert report["held_out"]["clips"] == 2
    assert report["held_out"]["edits"] == 3
    assert 0 <= report["held_out"]["instruction_accuracy"] <= 1
    assert report["held_out"]["psnr_gain"] == pytest.approx(
        report["held_out"]["psnr_edit"] - report["held_out"]["psnr_source"]
    )
    assert report["steps"] == 2
    assert report["train_seconds"] > 0
    assert report["checkpoint"] == str(last)
    page = (run / "report.html").read_text()
    assert '<polyline class="line line-0"' in page  # the loss that the run logged
    clips = list((run / "samples").glob("*.mp4"))
    assert len(clips) == 6
    assert probe(clips[0]).frames == FRAMES
    assert not (run / "samples" / "frames").exists()
    out = capsys.readouterr().out
    assert "2 held-out clips, 3 edits: instruction accuracy" in out
    assert str(run / "report.html") in out


def batch(**changes: object) -> EditBatch:
    video = to_model_range(moving(FRAMES, 16, 24))[None]
    fields = {
        "instruction": ("Invert",),
        "keys": ("k",),
        "videos": {"source": video, "target": -video},
        "edits": ("negative",),
        "clips": ("a.mp4",),
        **changes,
    }
    return EditBatch(**fields)  # type: ignore[arg-type]


def test_samples_hold_the_pixels_of_batch_and_output() -> None:
    (sample,) = edited_samples(batch(), batch().videos["target"])
    assert torch.equal(sample.source, moving(FRAMES, 16, 24))
    assert torch.equal(sample.output, 255 - sample.source)
    assert torch.equal(sample.target, sample.output)
    assert (sample.clip, sample.edit, sample.mask) == ("a.mp4", "negative", None)


def test_samples_without_names_go_by_key_and_instruction() -> None:
    nameless = batch(edits=(), clips=())
    (sample,) = edited_samples(nameless, nameless.videos["target"])
    assert (sample.clip, sample.edit) == ("k", "Invert")


def test_a_batch_without_pixels_cannot_be_compared() -> None:
    video = batch().videos["source"]
    with pytest.raises(DataError, match="k: the test batch has no pixels of the target"):
        edited_samples(batch(videos={"source": video}), video)


def test_clip_size_is_told_by_pixels_or_latents() -> None:
    class Codec:
        temporal_factor, spatial_factor = 4, 8

    assert clip_size(batch(), None) == (FRAMES, 16, 24)
    cached = batch(videos={}, latents={"target": torch.zeros(1, 4, 3, 8, 14)})
    assert clip_size(cached, Codec()) == (9, 64, 112)
    assert clip_size(cached, None) is None


def test_ranks_write_side_by_side(tmp_path: Path) -> None:
    """Two ranks share a folder: the report sees the samples of both."""
    from vedit.evaluation.parts import cases

    report = EditReport(output=str(tmp_path))
    for key, edit in (("a", "negative"), ("b", "mirror")):
        part = batch(keys=(key,), edits=(edit,))
        report.on_test_batch_end(None, None, {"edit": part.videos["target"]}, part, 0)  # type: ignore[arg-type]
    (case,) = cases(tmp_path / "samples" / "frames")
    assert sorted(case.samples()) == ["mirror", "negative"]


@pytest.mark.parametrize("logged", [True, False])
def test_the_report_lies_in_the_folder_of_the_run(tmp_path: Path, logged: bool) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="run", version="") if logged else False
    trainer = Trainer(accelerator="cpu", logger=logger, default_root_dir=tmp_path)
    report = EditReport()
    report.on_test_start(trainer, LightningModule())
    assert report.output == (tmp_path / "run" if logged else Path("runs/report"))
    named = EditReport(output=str(tmp_path / "mine"))
    named.on_test_start(trainer, LightningModule())
    assert named.output == tmp_path / "mine"
