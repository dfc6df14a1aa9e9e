"""How much of what the devices could do is done: MFU and HFU."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from vedit.callbacks.numbers import is_due, log_numbers
from vedit.callbacks.operations import Operations, operations_of
from vedit.callbacks.peak import kind_of, peak_flops
from vedit.callbacks.throughput import data_ranks
from vedit.tokens import AttentionLayout, TokenSequence


class Utilisation(Callback):
    """Logs the operations a second of each device, and their share of its peak.

    `speed/tflops` and `speed/mfu` count what the model asks for (with frozen weights no gradients
    of weights, with adapters theirs), `speed/hfu` what is computed again besides. Only the backbone
    counts; the time is everything from batch to batch, validation left out. Means over the last
    `window` batches. Without a known peak, as on a CPU, `speed/tflops` alone is logged.

    Args:
        window: batches to average over.
        peak_tflops: of one device; null looks it up by its name.
    """

    def __init__(self, window: int = 50, peak_tflops: float | None = None) -> None:
        self.window, self.peak_tflops = window, peak_tflops
        self._batches: deque[tuple[float, float, float]] = deque(maxlen=window)
        self._known: dict[tuple[AttentionLayout, int], Operations] = {}
        self._model = self._hardware = 0.0
        self._ended: float | None = None
        self._hook: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what passes through the backbone."""
        backbone: nn.Module = pl_module.model.backbone  # type: ignore[union-attr, assignment]
        self._hook = backbone.register_forward_pre_hook(self._count)
        self._ended = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch."""
        now = time.perf_counter()
        if self._ended is not None:
            self._batches.append((now - self._ended, self._model, self._hardware))
        self._model = self._hardware = 0.0
        self._ended = now
        if is_due(trainer, batch_idx) and self._batches:
            share = data_ranks(trainer) / trainer.world_size  # peers of one sequence share it
            log_numbers(trainer, self.rates(share, self._peak(trainer, pl_module)))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave validation out."""
        self._ended = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        self._ended = time.perf_counter()

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

    def rates(self, share: float = 1.0, peak: float | None = None) -> dict[str, float]:
        """The means over the window.

        Args:
            share: of a batch's operations that one device does.
            peak: operations a second; None if unknown.

        Returns:
            By name.
        """
        seconds, model, hardware = (sum(column) for column in zip(*self._batches, strict=True))
        rates = (share * model / seconds, share * hardware / seconds)
        found = {"speed/tflops": rates[0] / 1e12}
        if peak is not None:
            found |= {"speed/mfu": rates[0] / peak, "speed/hfu": rates[1] / peak}
        return found

    def _peak(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        if self.peak_tflops is not None:
            return self.peak_tflops * 1e12
        if pl_module.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name(pl_module.device)
        return peak_flops(name, kind_of(str(trainer.precision)))

    def _count(self, backbone: nn.Module, args: tuple[Any, ...]) -> None:
        sequence = args[0]
        if not torch.is_grad_enabled() or not isinstance(sequence, TokenSequence):
            return  # an evaluation in between
        attended = _attended(backbone, sequence)
        layout = sequence.layout
        if (layout, attended) not in self._known:
            self._known[layout, attended] = operations_of(backbone, layout, attended)
        operations = self._known[layout, attended]
        samples = sequence.segments[0].tokens.shape[0]
        self._model += samples * operations.model
        self._hardware += samples * operations.hardware


def _attended(backbone: Any, sequence: TokenSequence) -> int:
    """Tokens of the context, with all its streams, that blocks attend to."""
    context = sequence.context
    if context is None or not backbone.spec.cross_attention:
        return 0
    return sum(one.tokens.shape[1] for one in (context, *context.streams.values()))
