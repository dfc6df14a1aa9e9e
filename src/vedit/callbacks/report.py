"""A test becomes a report; a training remembers how long it took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vedit.batch import EditBatch
from vedit.data.clips import DEMO_CLIPS
from vedit.data.transforms import to_pixels
from vedit.errors import DataError
from vedit.evaluation.curve import read_losses
from vedit.evaluation.parts import EditedSample, clear, write_part
from vedit.evaluation.report import RunFacts, write_report


class TrainClock(Callback):
    """Writes into every checkpoint how long it was trained for, and on clips of which size.

    ``checkpoint["vedit"]`` gets ``train_seconds``, added up over resumed trainings, ``steps``,
    and ``clip_size``, the frames, height and width that most training clips had.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None
        self._sizes: Counter[tuple[int, ...]] = Counter()

    @property
    def seconds(self) -> float:
        """Time spent training so far."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._before + running

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the size of the clips."""
        size = clip_size(batch, getattr(pl_module, "codec", None))
        if size is not None:
            self._sizes[size] += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._before, self._started = self.seconds, None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write into the checkpoint."""
        facts = checkpoint.setdefault("vedit", {})
        facts["train_seconds"] = self.seconds
        facts["steps"] = trainer.global_step
        if self._sizes:
            facts["clip_size"] = list(self._sizes.most_common(1)[0][0])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the time of the checkpoint."""
        facts = checkpoint.get("vedit") or {}
        self._before = float(facts.get("train_seconds", 0.0))
        if facts.get("clip_size"):
            self._sizes[tuple(facts["clip_size"])] += 1


UNLOGGED = "runs/report"
"""Where the report of a run without a logger goes."""


class EditReport(Callback):
    """Scores a test on edits with exact targets, and writes what a reader wants to see.

    Below ``output``: ``report.json``, ``report.html``, and ``samples`` with source, edit and target
    side by side. Works with any number of ranks that share a file system.

    Args:
        output: Folder of the report; None is that of the run, where its logger writes.
        fps: Rate of the sample clips.
        keep_frames: Keep the edited samples as tensors, in ``samples/frames``.
    """

    def __init__(
        self, output: str | None = None, fps: float = 12.0, keep_frames: bool = False
    ) -> None:
        self.output = Path(output or UNLOGGED)
        self._of_the_run = output is None
        self.fps = fps
        self.keep_frames = keep_frames

    @property
    def _parts(self) -> Path:
        return self.output / "samples" / "frames"

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle where the report goes, and forget the samples of an earlier test."""
        if self._of_the_run and trainer.logger is not None and trainer.log_dir:
            self.output = Path(trainer.log_dir)
        if trainer.is_global_zero:
            clear(self._parts)
        trainer.strategy.barrier("report.start")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: EditBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the model made of a batch."""
        for sample in edited_samples(batch, outputs["edit"]):
            write_part(self._parts, sample)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        trainer.strategy.barrier("report.end")
        if not trainer.is_global_zero:
            return
        report = write_report(self.output, self._parts, run_facts(trainer, self.output), self.fps)
        if not self.keep_frames:
            clear(self._parts)
        held = report["held_out"]
        accuracy = _shown(held["instruction_accuracy"], 2)
        print(
            f"{held['clips']} held-out clips, {held['edits']} edits: instruction accuracy "
            f"{accuracy}, PSNR gain {_shown(held['psnr_gain'], 1)} dB\n"
            f"report: {self.output / 'report.html'}"
        )


def edited_samples(batch: EditBatch, edit: Tensor) -> list[EditedSample]:
    """The samples of a batch next to what the model made of them.

    Args:
        batch: With the pixels of source and target.
        edit: (B, 3, F, H, W) in [-1, 1].

    Returns:
        One for each of the B.

    Raises:
        DataError: There are no such pixels.
    """
    for name in ("source", "target"):
        if name not in batch.videos:
            raise DataError(
                f"{batch.keys[0]}: the test batch has no pixels of the {name} to compare with."
            )
    videos = {name: video.cpu() for name, video in batch.videos.items()}
    found = []
    for i, key in enumerate(batch.keys):
        masked = to_pixels(videos["mask"][i]) if "mask" in videos else None
        found.append(
            EditedSample(
                key=key,
                clip=batch.clips[i] if batch.clips else key,
                edit=(batch.edits[i] if batch.edits else "") or batch.instruction[i],
                instruction=batch.instruction[i],
                source=to_pixels(videos["source"][i]),
                output=to_pixels(edit[i].cpu()),
                target=to_pixels(videos["target"][i]),
                mask=masked,
            )
        )
    return found


def run_facts(trainer: Trainer, output: Path) -> RunFacts:
    """What the tested checkpoint and the logs of its run tell."""
    path = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    content = _read(path)
    facts = content.get("vedit") or {}
    run = _run_folder(path) or output
    return RunFacts(
        name=run.name,
        checkpoint=None if path is None else str(path),
        steps=facts.get("steps", content.get("global_step")),
        train_seconds=facts.get("train_seconds"),
        losses=read_losses(run),
        attribution={
            clip.file: f"{clip.shows}. {clip.author}. {clip.licence}." for clip in DEMO_CLIPS
        },
    )


def clip_size(batch: Any, codec: Any) -> tuple[int, int, int] | None:
    """Frames, height and width of a training batch; None if it does not tell."""
    for name in ("target", "source"):
        if name in getattr(batch, "videos", {}):
            frames, height, width = batch.videos[name].shape[-3:]
            return frames, height, width
        if name in getattr(batch, "latents", {}) and codec is not None:
            t, h, w = batch.latents[name].shape[-3:]
            factor = codec.spatial_factor
            return (t - 1) * codec.temporal_factor + 1, h * factor, w * factor
    return None


def _read(path: Path | None) -> Mapping[str, Any]:
    """A checkpoint's content; one written in pieces keeps the rest in ``meta.pt``."""
    if path is None:
        return {}
    file = path / "meta.pt" if path.is_dir() else path
    return torch.load(file, map_location="cpu", weights_only=True, mmap=file == path)


def _run_folder(checkpoint: Path | None) -> Path | None:
    if checkpoint is None:
        return None
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def _shown(value: float | None, digits: int) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"
