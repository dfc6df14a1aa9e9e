"""What happens when gradients are no numbers, or far larger than they have been."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vedit.callbacks.numbers import is_due, log_numbers
from vedit.errors import ConfigError, TrainingError
from vedit.parallel.gradients import gradient_norm
from vedit.transfer import Late

log = logging.getLogger(__name__)


class Guard(Callback):
    """Watches the norm of all gradients, before they are clipped.

    A step is bad if that norm is infinite or no number, or more than `spike` times the median of
    the norms before it. All ranks judge alike. "skip" leaves weights and the optimizer's state as
    they are; data, schedule and noise go on as if the step had been taken. It has to know the norm
    before the step, so the host waits for the device once in each. "stop" does not wait: it looks
    at a norm when the next one is made, and ends training before a spoilt checkpoint is written.

    Args:
        action: what happens to a bad step.
        spike: factor above the median; null lets finite gradients be as large as they like.
        window: good steps to take the median over; there are no spikes until a tenth of them.
        patience: bad steps in a row that may be skipped; one more ends training.
    """

    def __init__(
        self,
        action: Literal["skip", "stop"] = "stop",
        spike: float | None = None,
        window: int = 100,
        patience: int = 10,
    ) -> None:
        if spike is not None and not spike > 1:
            raise ConfigError(f"Guard.spike: must be above 1, got {spike}")
        if window < 10 or patience < 0:
            raise ConfigError(
                f"Guard: window must be at least 10 and patience at least 0, got {window} and "
                f"{patience}"
            )
        self.action, self.spike, self.window, self.patience = action, spike, window, patience
        self.skipped = self._in_a_row = 0
        self._norms: deque[float] = deque(maxlen=window)
        self._keys: list[str] = []
        self._asked: tuple[int, list[str], Late] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the samples of the step; several batches may share one."""
        self._keys += batch.keys

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Judge this step, or the one before it."""
        self._settle(trainer)
        step, keys, self._keys = trainer.global_step + 1, self._keys, []
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._asked = step, keys, Late(self._agreed(trainer, gradient_norm(parameters)))
        if self.action == "skip" and not self._settle(trainer):
            for parameter in parameters:
                parameter.grad = None  # to an optimizer, a step without gradients is none

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how many steps were skipped so far."""
        if self.action == "skip" and is_due(trainer, batch_idx):
            log_numbers(trainer, {"guard/skipped": float(self.skipped)})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let nothing be stored that a bad step has spoilt."""
        self._settle(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the last step."""
        self._settle(trainer)

    def state_dict(self) -> dict[str, Any]:
        """What the next step is judged by."""
        return {
            "skipped": self.skipped, "in_a_row": self._in_a_row, "norms": list(self._norms)
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on judging."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self._norms = deque(state_dict["norms"], maxlen=self.window)

    @staticmethod
    def _agreed(trainer: Trainer, norm: Tensor) -> Tensor:
        """The largest of all ranks' norms, infinite where one is no number."""
        known = torch.where(norm.isfinite(), norm, math.inf)
        if trainer.world_size == 1:
            return known
        largest: Tensor = trainer.strategy.reduce(known, reduce_op="max")
        return largest

    def _settle(self, trainer: Trainer) -> bool:
        """Judge the step that is open, if one is; whether it was good."""
        if self._asked is None:
            return True
        (step, keys, late), self._asked = self._asked, None
        norm = float(late.read().item())
        problem = self._problem(norm)
        if problem is None:
            self._norms.append(norm)
            self._in_a_row = 0
            return True
        self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
        said = f"step {step}: {problem}; samples: {', '.join(keys)}"
        if self.action == "stop":
            raise TrainingError(f"{said}. Look at them, or set Guard.action to skip.")
        if self._in_a_row > self.patience:
            raise TrainingError(
                f"{said}; {self._in_a_row} such steps in a row, Guard.patience is {self.patience}. "
                "Go on from the last checkpoint with a lower learning rate."
            )
        log.warning("%s: skipped (rank %d)", said, trainer.global_rank)
        return False

    def _problem(self, norm: float) -> str | None:
        if not math.isfinite(norm):
            return "the gradients are infinite or no numbers"
        if self.spike is None or len(self._norms) * 10 < self.window:
            return None
        usual = statistics.median(self._norms)
        if norm <= self.spike * usual:
            return None
        return f"the norm of the gradients is {norm:.4g}, {norm / usual:.3g} times the median"
