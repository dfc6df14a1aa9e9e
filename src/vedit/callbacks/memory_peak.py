"""How much memory training has taken at most."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vedit.callbacks.numbers import is_due, log_numbers

GIB = 2**30


class MemoryPeak(Callback):
    """Logs the most memory that was in use so far, in GiB.

    On a GPU `memory/peak` is what tensors held and `memory/reserved` what the allocator had taken
    for them; on a CPU `memory/peak` is what the process held.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log it."""
        if is_due(trainer, batch_idx):
            found = memory_peaks(pl_module.device)
            log_numbers(trainer, {f"memory/{name}": value for name, value in found.items()})


def memory_peaks(device: torch.device) -> dict[str, float]:
    """The most memory that was in use so far.

    Args:
        device: of which; on anything but a GPU it is that of the process.

    Returns:
        GiB by what they mean.
    """
    if device.type == "cuda":
        return {
            "peak": torch.cuda.max_memory_allocated(device) / GIB,
            "reserved": torch.cuda.max_memory_reserved(device) / GIB,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
