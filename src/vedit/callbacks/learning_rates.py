"""The learning rate of each group of parameters."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from vedit.callbacks.numbers import is_due, log_numbers
from vedit.parameter_groups import learning_rates


class LearningRates(Callback):
    """Logs `lr/NAME` for each group of `model.parameter_groups`, `lr/all` without groups.

    It is the rate of the step that has just been taken.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note the rates before the schedule moves on."""
        self._used = learning_rates(optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log them."""
        if is_due(trainer, batch_idx):
            log_numbers(trainer, {f"lr/{name}": rate for name, rate in self._used.items()})
