"""xformers' memory-efficient attention on runs of different lengths."""

from functools import lru_cache

import torch
from torch import Tensor
from xformers.ops import fmha
from xformers.ops.fmha.attn_bias import BlockDiagonalMask

from vedit.attention.runs import Lengths


def forward(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """As `vedit.attention.reference.forward`, in half precision on CUDA."""
    out, logsumexp = fmha.memory_efficient_attention_forward_requires_grad(
        q[None], k[None], v[None], attn_bias=_mask(lengths.q, lengths.k, q.device)
    )
    assert logsumexp.shape[0] == 1, "its kernels for half precision keep the runs packed"
    # Padded beyond the queries, where nobody reads.
    return out[0], logsumexp[0, :, : q.shape[0]].contiguous()


def backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    lengths: Lengths,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vedit.attention.reference.backward`, in half precision on CUDA."""
    to_q, to_k, to_v = fmha.memory_efficient_attention_backward(
        gradient[None],
        out[None],
        logsumexp[None],
        q[None],
        k[None],
        v[None],
        attn_bias=_mask(lengths.q, lengths.k, q.device),
    )
    return to_q[0], to_k[0], to_v[0]


@lru_cache(maxsize=64)
def _mask(q: tuple[int, ...], k: tuple[int, ...], device: torch.device) -> BlockDiagonalMask:
    return BlockDiagonalMask.from_seqlens(q, k, device=device)
