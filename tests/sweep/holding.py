"""A callback that holds a training at a step for as long as a file is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class HoldAt(Callback):
    """Before training on batch `step`, waits while `flag` exists, and says so in `flag`.

    Args:
        step: batches that come before.
        flag: a file.
    """

    def __init__(self, step: int, flag: str) -> None:
        self.step, self.flag = step, Path(flag)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        stops = [callback for callback in trainer.callbacks if hasattr(callback, "requested")]
        while trainer.global_step == self.step and self.flag.exists():
            if any(callback.requested for callback in stops):  # Ctrl-C ends the step, and this
                break
            self.flag.write_text("reached")
            time.sleep(0.05)
