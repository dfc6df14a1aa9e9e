"""A callback that presses Ctrl-C, for tests of what follows."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, Trainer


class InterruptAt(Callback):
    """Sends SIGINT to this process while a step runs.

    Args:
        step: optimizer steps done before.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
