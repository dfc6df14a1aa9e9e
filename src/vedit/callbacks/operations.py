"""Floating-point operations of a backbone as it is: adapted, partly recomputed, at some length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vedit.backbones.flops import (
    Flops,
    Training,
    adapter_flops,
    ends_unread,
    forward_flops,
    step_flops,
)
from vedit.backbones.recompute import recomputed_flops
from vedit.callbacks.parameters import ffn_width
from vedit.tokens import AttentionLayout


@dataclass(frozen=True)
class Operations:
    """Operations of one sample.

    Attributes:
        forward: of a forward pass.
        model: of a training step, as far as the model asks for them (MFU).
        hardware: of a training step with what is computed again (HFU).
    """

    forward: Flops
    model: float
    hardware: float


def operations_of(backbone: Any, layout: AttentionLayout, attended: int) -> Operations:
    """Operations of a backbone.

    Args:
        backbone: built, on the meta device or not.
        layout: of the sequence.
        attended: tokens of the context that its blocks attend to.

    Returns:
        Those of one sample.
    """
    forward = forward_flops(
        layout,
        attended,
        backbone.spec.width,
        ffn_width(backbone),
        backbone.spec.blocks,
        adapter_flops(backbone.blocks, sum(layout.lengths), attended),
        ends_unread(backbone.blocks[0]),
    )
    training = how_trained(backbone)
    again = recomputed_flops(backbone.recompute, forward)
    return Operations(forward, step_flops(forward, training), step_flops(forward, training, again))


def how_trained(backbone: nn.Module) -> Training:
    """Whether weights, adapters or nothing of the backbone trains."""
    train = [parameter.requires_grad for parameter in backbone.parameters()]
    return "full" if all(train) else "lora" if any(train) else "frozen"
