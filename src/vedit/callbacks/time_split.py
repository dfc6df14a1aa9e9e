"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, TypeAlias

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from vedit.callbacks.numbers import is_due, log_numbers

Mark: TypeAlias = "float | torch.cuda.Event"

STAGES = ("data", "encode", "forward", "backward", "optimizer")
"""What lies between two marks: waiting for a batch, codec, context encoder and noise, the model,
its gradients, and clipping, the optimizer and what callbacks before this one do."""


class TimeSplit(Callback):
    """Logs the seconds of each stage of a batch as `time/STAGE`, means over the last `window`.

    On a GPU the device takes the times itself, and they are read when they are there: nobody
    waits, and "data" is how long the device had nothing to do. The first batch does not count.

    Args:
        window: batches to average over.
        table: print the split at the end of training.
    """

    def __init__(self, window: int = 50, table: bool = False) -> None:
        self.window, self.table = window, table
        self._done: deque[dict[str, float]] = deque(maxlen=window)
        self._open: deque[list[Mark]] = deque()
        self._marks: list[Mark] = []
        self._ended: Mark | None = None
        self._hook: Any = None
        self._cuda = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn when the model begins."""
        self._cuda = pl_module.device.type == "cuda"
        model: Any = pl_module.model
        self._hook = model.register_forward_pre_hook(lambda *_: self._mark(2))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there."""
        self._marks = [] if self._ended is None else [self._ended]
        self._mark(1)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """The loss is there."""
        self._mark(3)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients are there."""
        self._mark(4)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done."""
        self._mark(5)
        if len(self._marks) == len(STAGES) + 1:
            self._open.append(self._marks)
        self._collect()
        if self._done and is_due(trainer, batch_idx):
            log_numbers(trainer, {f"time/{name}": value for name, value in self.split().items()})
        self._ended = self._now()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out of the time between two batches."""
        self._ended = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        if self.table:
            self._collect(wait=True)
            rank_zero_info("\n".join(self.lines()))

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

    def split(self) -> dict[str, float]:
        """Mean seconds of each stage over the window."""
        count = max(1, len(self._done))
        return {name: sum(done[name] for done in self._done) / count for name in STAGES}

    def lines(self) -> list[str]:
        """The split as a table."""
        split = self.split()
        total = max(sum(split.values()), 1e-12)
        head = [f"time of a batch, mean of {len(self._done)}: {1e3 * total:.1f} ms"]
        return head + [
            f"  {name:<10} {1e3 * seconds:9.1f} ms  {seconds / total:6.1%}"
            for name, seconds in split.items()
        ]

    def _mark(self, place: int) -> None:
        """Take the time, unless something came before its turn, such as a sample in between."""
        if len(self._marks) == place:
            self._marks.append(self._now())

    def _now(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _collect(self, wait: bool = False) -> None:
        """Read the times that are there."""
        while self._open and (wait or _is_there(self._open[0][-1])):
            marks = self._open.popleft()
            pairs = zip(marks, marks[1:], strict=False)
            self._done.append(dict(zip(STAGES, (_between(*p) for p in pairs), strict=True)))


def _is_there(mark: Mark) -> bool:
    return not isinstance(mark, torch.cuda.Event) or mark.query()


def _between(first: Mark, second: Mark) -> float:
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        second.synchronize()
        return first.elapsed_time(second) / 1e3
    assert isinstance(first, float)
    assert isinstance(second, float)
    return second - first
