"""Progress that reads well in a terminal and in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class LogProgress(TQDMProgressBar):
    """A bar in a terminal; elsewhere a line every so many steps.

    A line reads `step 200/1000  train/loss 0.412  val/loss 0.433  3.1 steps/s  0:04:17 left`.

    Args:
        every_n_steps: optimizer steps between two lines, or between two updates of the bar.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        super().__init__(refresh_rate=every_n_steps)
        self.every_n_steps = every_n_steps
        self.lines = not sys.stderr.isatty()
        self._start = (0.0, 0)
        self._last = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the bar out where nobody sees it move."""
        super().setup(trainer, pl_module, stage)
        if self.lines:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """What the bar shows; read now and then, where Lightning would wait for it every step."""
        return {**super().get_metrics(trainer, pl_module), **losses(trainer)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._start = (time.monotonic(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Say where training stands."""
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if self.lines and trainer.is_global_zero and due and step != self._last:
            self._last = step
            print(self.line(trainer), file=sys.stderr, flush=True)

    def line(self, trainer: Trainer) -> str:
        """One line about the current step."""
        began, first = self._start
        step, total = trainer.global_step, total_steps(trainer)
        rate = (step - first) / max(time.monotonic() - began, 1e-9)
        parts = [f"step {step}/{total}" if total else f"step {step}"]
        parts += [f"{name} {value:.4g}" for name, value in losses(trainer).items()]
        parts.append(f"{rate:.3g} steps/s")
        if total and rate > 0:
            parts.append(f"{clock((total - step) / rate)} left")
        return "  ".join(parts)


def losses(trainer: Trainer) -> dict[str, float]:
    """The last losses, as far as there are any; waits for them."""
    known = trainer.callback_metrics
    return {name: float(known[name]) for name in ("train/loss", "val/loss") if name in known}


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps in all, None if there is no end."""
    if trainer.max_steps >= 0:
        return trainer.max_steps
    total = trainer.estimated_stepping_batches
    return None if total == float("inf") else int(total)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    Args:
        seconds: a duration; fractions are dropped.

    Returns:
        Hours without a leading zero, minutes and seconds with one.

    Examples:
        >>> clock(3725)
        '1:02:05'
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
