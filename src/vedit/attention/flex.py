"""PyTorch's FlexAttention."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention


def flex(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention whose padding is hidden by a function of the scores.

    Args:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width).
        v: (B, M, heads, head width).
        valid: (B, M) bool, False where a key is padding.

    Returns:
        (B, N, heads, head width).
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # heads first
    # Without the compiler it would hold all scores; inside a compiled graph it is compiled already.
    fused = q.device.type == "cuda" and not torch.compiler.is_compiling()
    attend = _compiled() if fused else _plain
    out: Tensor = attend(q, k, v, None if valid is None else _hide(valid))
    return out.transpose(1, 2)


_plain: Callable[..., Any] = flex_attention


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _hide(valid: Tensor) -> Callable[..., Tensor]:
    """A score modifier that keeps every query off padding."""

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(valid[batch, key], score, -torch.inf)

    return modify
