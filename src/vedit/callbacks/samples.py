"""Samples during training: source | edit | target, side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vedit.batch import EditBatch
from vedit.errors import ConfigError
from vedit.video import write_video


class SampleVideos(Callback):
    """Edit a few validation samples now and then.

    Each becomes `samples/step_0001000/KEY.mp4` in the run's folder, and an animation under Images
    in TensorBoard. Every rank takes part, since sharded weights need all of them; the first writes.

    Args:
        every_n_steps: optimizer steps between two rounds.
        samples: how many validation samples, the same ones each time.
        steps: of the sampler; null takes the configured number.
        guidance: null takes the configured scale.
        fps: frames per second of what is written.
        tensorboard: whether to write animations there too.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        samples: int = 4,
        steps: int | None = None,
        guidance: float | None = None,
        fps: float = 8.0,
        tensorboard: bool = True,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("samples", samples)):
            if value < 1:
                raise ConfigError(f"SampleVideos.{name}: must be at least 1, got {value}")
        self.every_n_steps, self.samples = every_n_steps, samples
        self.steps, self.guidance = steps, guidance
        self.fps, self.tensorboard = fps, tensorboard
        self._last = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Sample when it is time; several batches may share one optimizer step."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._last and trainer.log_dir:
            self._last = step
            self.write(trainer, pl_module)

    @torch.no_grad()
    def write(self, trainer: Trainer, system: Any) -> None:
        """Edit the samples and write them.

        Args:
            trainer: whose validation data and folder to use.
            system: the `EditSystem`.
        """
        folder = Path(str(trainer.log_dir)) / "samples" / f"step_{trainer.global_step:07d}"
        training = system.training
        system.eval()
        captions = []
        for batch in self._batches(trainer):
            batch = batch.to(system.device)
            with trainer.precision_plugin.forward_context(), system.evaluated_weights():
                edit = system.edit(batch, steps=self.steps, guidance=self.guidance)
            rows = [pixels(system, batch, "source"), edit, pixels(system, batch, "target")]
            strips = side_by_side([row for row in rows if row is not None])
            captions += list(zip(batch.keys, batch.instruction, strips, strict=True))
        system.train(training)
        if trainer.is_global_zero:
            self._save(trainer, folder, captions[: self.samples])

    def _batches(self, trainer: Trainer) -> Iterator[EditBatch]:
        data = getattr(trainer, "datamodule", None)
        loader = data.val_dataloader() if data is not None else None
        if not loader:
            rank_zero_warn("SampleVideos: no validation data to sample from (data.validation)")
            return
        seen = 0
        for batch in loader:
            yield batch
            seen += len(batch)
            if seen >= self.samples:
                return

    def _save(
        self, trainer: Trainer, folder: Path, captions: list[tuple[str, str, Tensor]]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for key, instruction, strip in captions:
            name = key.replace("/", "_")
            write_video(folder / f"{name}.mp4", strip, self.fps)
            lines.append(f"{key}\t{instruction}\n")
            for logger in trainer.loggers:
                if self.tensorboard and isinstance(logger, TensorBoardLogger):
                    log_animation(logger, f"samples/{name}", strip, self.fps, trainer.global_step)
        (folder / "instructions.tsv").write_text("".join(lines), encoding="utf-8")


def pixels(system: Any, batch: EditBatch, name: str) -> Tensor | None:
    """A video (B, 3, F, H, W) of the batch, decoded if only its latents are at hand."""
    if name in batch.videos:
        return batch.videos[name]
    if name in batch.latents:
        decoded: Tensor = system.codec.decode(batch.latents[name].float())
        return decoded
    return None


def side_by_side(videos: list[Tensor]) -> Tensor:
    """Videos (B, 3, F, H, W) in [-1, 1] to uint8 strips (B, F, H, n W, 3)."""
    strip = torch.cat([video.float().cpu() for video in videos], dim=-1)
    bytes_ = ((strip.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return bytes_.permute(0, 2, 3, 4, 1).contiguous()


def animation(frames: Tensor, fps: float) -> bytes:
    """An endless GIF of uint8 frames (F, H, W, 3)."""
    from PIL import Image

    images = [Image.fromarray(frame.numpy()) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 / fps)),
        loop=0,
    )
    return buffer.getvalue()


def log_animation(
    logger: TensorBoardLogger, tag: str, frames: Tensor, fps: float, step: int
) -> None:
    """Write frames (F, H, W, 3) as an animated image; TensorBoard plays GIFs."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    _, height, width, _ = frames.shape
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=animation(frames, fps)
    )
    writer = logger.experiment._get_file_writer()
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
