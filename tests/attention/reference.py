"""Attention by hand, and the kernels that are compared with it."""

import math

import torch
from torch import Tensor

from vedit.attention import Kernel, choose_kernel
from vedit.attention.kernel import at_once
from vedit.attention.runs import Runs
from vedit.attention.sdpa import sdpa
from vedit.tokens import AttentionLayout

LENGTHS = (5, 4, 3)
# The first sees all, the second itself and the last, the third itself alone.
SEES = ((0, 1, 2), (1, 2), (2,))
LAYOUT = AttentionLayout(LENGTHS, SEES)

KERNELS = {
    "sdpa": choose_kernel("cpu", torch.float64, "sdpa"),
    "flex": choose_kernel("cpu", torch.float64, "flex"),
    "runs": Kernel("runs", "test", at_once(Runs("reference"), sdpa)),
}


def qkv(n: int = 12, m: int = 12, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries (2, n, 2, 8), keys and values (2, m, 2, 8)."""
    return [torch.randn(2, size, 2, 8, dtype=dtype) for size in (n, m, m)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, may: Tensor) -> Tensor:
    """Attention through a dense boolean mask (B, N, M)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~may[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v)


def dense_mask(layout: AttentionLayout) -> Tensor:
    """Who sees whom (2, N, N), token by token."""
    owner = torch.arange(len(layout.lengths)).repeat_interleave(torch.tensor(layout.lengths))
    allowed = torch.zeros(len(layout.lengths), len(layout.lengths), dtype=torch.bool)
    for g, seen in enumerate(layout.sees or ()):
        allowed[g, list(seen)] = True
    return allowed[owner][:, owner].expand(2, -1, -1)
