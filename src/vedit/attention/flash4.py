"""FlashAttention 4 (package `flash-attn-4`, module `flash_attn.cute`: Hopper and Blackwell).

Runs of one length go through the dense kernel, which needs no table of where each one starts.
"""

from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd
from torch import Tensor

from vedit.attention.runs import Lengths


def forward(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """As `vedit.attention.reference.forward`, in half precision on CUDA."""
    if _equal(lengths):
        q, k, v = (x.unflatten(0, (len(lengths.q), -1)) for x in (q, k, v))
        out, logsumexp, *_ = _flash_attn_fwd(q, k, v, return_lse=True)
        return out.flatten(0, 1), logsumexp.transpose(0, 1).reshape(q.shape[2], -1)
    out, logsumexp, *_ = _flash_attn_fwd(
        q,
        k,
        v,
        cu_seqlens_q=lengths.q_starts,
        cu_seqlens_k=lengths.k_starts,
        max_seqlen_q=max(lengths.q),
        max_seqlen_k=max(lengths.k),
        return_lse=True,
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
    if _equal(lengths):
        runs = len(lengths.q)
        q, k, v, out, gradient = (x.unflatten(0, (runs, -1)) for x in (q, k, v, out, gradient))
        by_run = logsumexp.unflatten(1, (runs, -1)).transpose(0, 1).contiguous()
        to_q, to_k, to_v = _flash_attn_bwd(q, k, v, out, gradient, by_run)
        return to_q.flatten(0, 1), to_k.flatten(0, 1), to_v.flatten(0, 1)
    to_q, to_k, to_v = _flash_attn_bwd(
        q,
        k,
        v,
        out,
        gradient,
        logsumexp,
        cu_seqlens_q=lengths.q_starts,
        cu_seqlens_k=lengths.k_starts,
        max_seqlen_q=max(lengths.q),
        max_seqlen_k=max(lengths.k),
    )
    return to_q, to_k, to_v


def _equal(lengths: Lengths) -> bool:
    return len(set(lengths.q)) == 1 and len(set(lengths.k)) == 1
