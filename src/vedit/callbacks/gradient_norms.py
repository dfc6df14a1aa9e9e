"""How large the gradients of each component are."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vedit.callbacks.numbers import is_due, log_numbers
from vedit.parallel.gradients import gradient_norm
from vedit.transfer import Late


class GradientNorms(Callback):
    """Logs the L2 norm of the gradients of each component, before they are clipped.

    `gradients/backbone`, `gradients/injections.SLOT`, `gradients/connector` and `gradients/tower`,
    as far as they train, and `gradients/all`; at steps that are logged. Gradients in pieces on
    several ranks are not gathered.
    """

    def __init__(self) -> None:
        self._late: tuple[list[str], Late] | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Compute them if this step is logged."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
        if (trainer.global_step + 1) % every:
            return
        parts: dict[str, list[Tensor]] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(component_of(name), []).append(parameter)
        norms = torch.stack([gradient_norm(p).to(pl_module.device) for p in parts.values()])
        values = torch.cat([norms, norms.square().sum().sqrt()[None]])
        self._late = [*parts, "all"], Late(values)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log them."""
        if self._late is not None and is_due(trainer, batch_idx):
            (names, late), self._late = self._late, None
            values = zip(names, late.read().tolist(), strict=True)
            log_numbers(trainer, {f"gradients/{name}": value for name, value in values})


def component_of(name: str) -> str:
    """The component that a parameter belongs to.

    Args:
        name: of a parameter of an `EditSystem`.

    Returns:
        The backbone, one injection, or half of the context encoder.

    Examples:
        >>> component_of("model.backbone.blocks.0.attn1.to_q.weight")
        'backbone'
        >>> component_of("model.injections.source.embed.proj.weight")
        'injections.source'
        >>> component_of("context.connector.linear_1.bias")
        'connector'
    """
    parts = name.split(".")
    return ".".join(parts[1:3]) if parts[1] == "injections" else parts[1]
