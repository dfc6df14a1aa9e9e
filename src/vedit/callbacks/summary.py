"""Says at the start of a training what is being trained, and whether it fits the device."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from vedit.batch import UnlikeBatch
from vedit.callbacks.description import describe
from vedit.callbacks.holding import Holding
from vedit.callbacks.memory import GIB, USABLE, MemoryEstimate, Spread, frugal_enough
from vedit.tokens import Grid


class SystemSummary(Callback):
    """Prints the composed system before the first step: segments, parameters and memory.

    The size is that of the first training batch. If the estimate exceeds the device's memory a
    warning names what fits; after a few steps it is compared with what was taken.

    Args:
        compare_after: batches after which it is.
    """

    def __init__(self, compare_after: int = 3) -> None:
        self.printed = False
        self.compare_after = compare_after
        self._estimate: MemoryEstimate | None = None
        self._batches = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Print once."""
        if self.printed:
            return
        self.printed = True
        size = video_size(pl_module, batch)
        if size is None:
            return
        spread = spread_of(trainer, len(batch))
        described = describe(
            pl_module,
            *size,
            references=_references(batch),
            precision=str(trainer.precision),
            spread=spread,
        )
        rank_zero_info(described.text())
        self._estimate = described.memory
        limit = memory_of(pl_module.device)
        if limit is not None:
            blocks = described.blocks
            for line in warning(described.memory, described.holding, spread, limit, blocks):
                rank_zero_warn(line)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the estimate with what was taken, once."""
        self._batches += 1
        cuda = pl_module.device.type == "cuda"
        if self._batches == self.compare_after and cuda and self._estimate is not None:
            taken = torch.cuda.max_memory_allocated(pl_module.device)
            rank_zero_info(compared(self._estimate, taken, self._batches))


def compared(estimate: MemoryEstimate, taken: float, batches: int) -> str:
    """One line: what a training took, and what the formula said.

    Args:
        estimate: of the first batch.
        taken: bytes, at the most.
        batches: after how many.

    Returns:
        With the relative error of the formula.
    """
    off = estimate.peak / taken - 1
    return (
        f"memory: {taken / GIB:.1f} GiB at the most in {batches} batches; "
        f"{estimate.peak / GIB:.1f} by formula ({off:+.0%})"
    )


def warning(
    needed: MemoryEstimate, holding: Holding, spread: Spread, limit: float, blocks: int
) -> list[str]:
    """What to say if a training will not fit.

    Args:
        needed: by formula.
        holding: what it was made from.
        spread: over devices.
        limit: bytes of a device.
        blocks: of the backbone.

    Returns:
        One line, or none if it fits.
    """
    if needed.peak <= USABLE * limit:
        return []
    found = frugal_enough(holding, spread, limit, blocks)
    advice = (
        f"model.backbone.init_args.recompute: {found[0]} takes {found[1].peak / GIB:.1f}"
        if found
        else "no way to recompute makes it fit; use more devices (trainer.strategy), fewer bits "
        "for frozen weights (base: Float8 or NF4), or a smaller batch or video"
    )
    return [
        f"training needs about {needed.peak / GIB:.1f} GiB of the {limit / GIB:.1f} that the "
        f"device has; {advice}"
    ]


def spread_of(trainer: Trainer, batch: int) -> Spread:
    """How a trainer spreads a training, as far as memory goes.

    Args:
        trainer: with its strategy set up.
        batch: samples of one device.

    Returns:
        Every weight whole on every device, unless the strategy shares them out.
    """
    strategy: Any = trainer.strategy
    plan, sharding = getattr(strategy, "plan", None), getattr(strategy, "sharding", None)
    accumulates = trainer.accumulate_grad_batches > 1
    if plan is None:
        return Spread(batch, accumulates=accumulates)
    shares = getattr(strategy, "shards", True)
    return Spread(
        batch,
        shard=plan.sizes.shard if shares else 1,
        context=plan.sizes.context,
        frozen=getattr(sharding, "frozen", "sharded"),
        accumulates=accumulates,
    )


def memory_of(device: torch.device) -> int | None:
    """Bytes of a device, None if it is no accelerator that tells."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def video_size(system: Any, batch: Any) -> Grid | None:
    """(frames, height, width) of a batch's target or source; of samples unlike, the largest."""
    if isinstance(batch, UnlikeBatch):
        sizes = [video_size(system, part) for part in batch.parts]
        return max((size for size in sizes if size is not None), key=prod, default=None)
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
    if isinstance(batch, UnlikeBatch):
        return max(map(_references, batch.parts))
    if batch.reference is not None:
        return int(batch.reference.shape[1])
    latents: Mapping[str, Tensor] = batch.latents
    return int(latents["reference"].shape[2]) if "reference" in latents else 1
