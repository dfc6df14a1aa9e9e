"""How fast training runs, and whether it waits for data."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from vedit.callbacks.numbers import is_due, log_numbers
from vedit.tokens import TokenSequence


class Throughput(Callback):
    """Logs samples and tokens a second over all ranks, and how long the loop waits for data.

    Logged as `speed/samples_per_second`, `speed/tokens_per_second`, `speed/data_seconds` (waiting
    for a batch) and `speed/step_seconds` (everything else), each the mean over the last `window`
    batches, on the clock of the host. Time in validation does not count. `TimeSplit` tells more.

    Args:
        window: batches to average over.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._steps: list[tuple[float, float, int, int]] = []
        self._tokens = 0
        self._ended: float | None = None
        self._started = 0.0
        self._hook: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the tokens that the backbone reads."""
        backbone: nn.Module = pl_module.model.backbone  # type: ignore[union-attr, assignment]
        self._hook = backbone.register_forward_pre_hook(self._count)
        self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """The batch is there."""
        self._started = time.perf_counter()
        self._tokens = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done."""
        now = time.perf_counter()
        waited = 0.0 if self._ended is None else self._started - self._ended
        self._steps.append((waited, now - self._started, len(batch), self._tokens))
        self._steps = self._steps[-self.window :]
        if is_due(trainer, batch_idx):
            log_numbers(trainer, self.rates(data_ranks(trainer)))
        self._ended = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out of the time between two batches."""
        self._ended = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hook off; Lightning calls no teardown after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hook off."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def rates(self, ranks: int = 1) -> dict[str, float]:
        """The means over the window."""
        waits, works, samples, tokens = (sum(column) for column in zip(*self._steps, strict=True))
        total = max(waits + works, 1e-9)
        return {
            "speed/samples_per_second": ranks * samples / total,
            "speed/tokens_per_second": ranks * tokens / total,
            "speed/data_seconds": waits / len(self._steps),
            "speed/step_seconds": works / len(self._steps),
        }

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        sequence: TokenSequence = args[0]
        self._tokens += sum(s.tokens.shape[0] * s.tokens.shape[1] for s in sequence.segments)


def data_ranks(trainer: Trainer) -> int:
    """How many ranks have batches of their own; peers of one sequence share theirs."""
    dealt = trainer.distributed_sampler_kwargs
    return int(dealt["num_replicas"]) if dealt else 1
