"""FlashAttention 3 (package `flash_attn_interface`, Hopper) on runs of different lengths."""

import torch
from flash_attn_interface import _flash_attn_backward, _flash_attn_forward
from torch import Tensor

from vedit.attention.runs import Lengths


def forward(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """As `vedit.attention.reference.forward`, in half precision on CUDA."""
    out, logsumexp, *_ = _flash_attn_forward(
        q,
        k,
        v,
        cu_seqlens_q=lengths.q_starts,
        cu_seqlens_k=lengths.k_starts,
        max_seqlen_q=max(lengths.q),
        max_seqlen_k=max(lengths.k),
        softmax_scale=q.shape[-1] ** -0.5,
        causal=False,
    )
    return out, logsumexp


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
    to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    _flash_attn_backward(
        gradient,
        q,
        k,
        v,
        out,
        logsumexp,
        lengths.q_starts,
        lengths.k_starts,
        None,  # no key or query is unused
        None,
        max(lengths.q),
        max(lengths.k),
        to_q,
        to_k,
        to_v,
        q.shape[-1] ** -0.5,
        False,  # not causal; versions name the argument differently
    )
    return to_q, to_k, to_v
