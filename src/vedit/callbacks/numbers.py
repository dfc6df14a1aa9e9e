"""Logging of numbers that the host knows already."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer


def is_due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step ended with this batch, one of every `log_every_n_steps`.

    Args:
        trainer: at the end of a training batch.
        batch_idx: of that batch.

    Returns:
        The same on every rank.
    """
    stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
    return stepped and trainer.global_step % every == 0


def log_numbers(trainer: Trainer, numbers: Mapping[str, float]) -> None:
    """Give numbers to the loggers, at the step that has just ended.

    `LightningModule.log` would send each of them to the device, and wait until it is there.

    Args:
        trainer: at the end of a training batch.
        numbers: by name.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(numbers), step=trainer.global_step - 1)  # as Lightning counts
