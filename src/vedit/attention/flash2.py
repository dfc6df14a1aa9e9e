"""FlashAttention 2 (package `flash_attn`, 2.7 or later) on runs of different lengths."""

import torch
from flash_attn.flash_attn_interface import (
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
)
from torch import Tensor

from vedit.attention.runs import Lengths


def forward(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """As `vedit.attention.reference.forward`, in half precision on CUDA."""
    out, logsumexp, *_ = _flash_attn_varlen_forward(
        q,
        k,
        v,
        lengths.q_starts,
        lengths.k_starts,
        max(lengths.q),
        max(lengths.k),
        dropout_p=0.0,
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
    _flash_attn_varlen_backward(
        gradient,
        q,
        k,
        v,
        out,
        logsumexp,
        to_q,
        to_k,
        to_v,
        lengths.q_starts,
        lengths.k_starts,
        max(lengths.q),
        max(lengths.k),
        dropout_p=0.0,
        softmax_scale=q.shape[-1] ** -0.5,
        causal=False,
        window_size_left=-1,
        window_size_right=-1,
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
    )
    return to_q, to_k, to_v
