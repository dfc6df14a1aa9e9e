"""Tiny backbones, and pairs of ours and diffusers' with the same random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vedit.backbones.wan import WanDiT
from vedit.tokens import Context, TokenSequence

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

TINY: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "ffn_dim": 96,
    "in_channels": 4,
    "text_dim": 24,
    "freq_dim": 32,
}
PROJECTION = "condition_embedder.text_embedder."


def randomised(module: nn.Module, std: float = 0.2, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, so that no zero or unit initialisation hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(centre + std * draw)
    return module


def tiny(**changes: Any) -> WanDiT:
    """A small WanDiT with random weights."""
    model = randomised(WanDiT(**{**TINY, **changes}))
    assert isinstance(model, WanDiT)
    return model


def pair(std: float = 0.2, **changes: Any) -> tuple[WanDiT, WanTransformer3DModel]:
    """Ours and diffusers' model with the same weights."""
    from diffusers import WanTransformer3DModel  # seconds, which not every test needs

    sizes = {**TINY, **changes}
    theirs = WanTransformer3DModel(**{"out_channels": sizes["in_channels"], **sizes})
    randomised(theirs, std)
    ours = WanDiT(**sizes)
    ours.load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if not k.startswith(PROJECTION)}
    )
    return ours, theirs


def sequence(model: WanDiT, x: Tensor, sigma: Tensor, context: Tensor | None) -> TokenSequence:
    """The target alone, attending to a context (B, L, D)."""
    start = TokenSequence.of_target(x, sigma, model.embed)
    return start if context is None else start.with_context(Context(context))
