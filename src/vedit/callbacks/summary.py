"""Says at the start of a training what is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from vedit.callbacks.description import describe
from vedit.tokens import Grid


class SystemSummary(Callback):
    """Prints the composed system before the first step: segments and parameters.

    The size is that of the first training batch.
    """

    def __init__(self) -> None:
        self.printed = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Print once."""
        if self.printed:
            return
        self.printed = True
        size = video_size(pl_module, batch)
        if size is not None:
            references = _references(batch)
            rank_zero_info(describe(pl_module, *size, references=references).text())


def video_size(system: Any, batch: Any) -> Grid | None:
    """(frames, height, width) of a batch's target or source."""
    for name in ("target", "source"):
        if name in batch.videos:
            frames, height, width = batch.videos[name].shape[-3:]
            return frames, height, width
        if name in batch.latents:
            t, h, w = batch.latents[name].shape[-3:]
            codec = system.codec
            frames = (t - 1) * codec.temporal_factor + 1
            return frames, h * codec.spatial_factor, w * codec.spatial_factor
    return None


def _references(batch: Any) -> int:
    if batch.reference is not None:
        return int(batch.reference.shape[1])
    latents: Mapping[str, Tensor] = batch.latents
    return int(latents["reference"].shape[2]) if "reference" in latents else 1
