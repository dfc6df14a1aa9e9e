"""Attention within runs by the plain formulas, for any device and dtype: what others must equal."""

import torch
from torch import Tensor

from vedit.attention.runs import Lengths


def forward(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """Softmax(q k^T / sqrt(width)) v, run by run.

    Args:
        q: (total queries, heads, head width).
        k: (total keys, heads, head width).
        v: (total keys, heads, head width).
        lengths: of the runs.

    Returns:
        (total queries, heads, head width) and the log-sum-exp (heads, total queries).
    """
    outs, sums = [], []
    for a, b, c in zip(q.split(lengths.q), k.split(lengths.k), v.split(lengths.k), strict=True):
        scores = _scores(a, b)
        total = scores.logsumexp(-1, keepdim=True)
        outs.append(torch.einsum("hnm,mhd->nhd", (scores - total).exp(), c.to(scores.dtype)))
        sums.append(total.squeeze(-1))
    return torch.cat(outs).to(q.dtype), torch.cat(sums, 1)


def backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    lengths: Lengths,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v (FlashAttention, Dao et al. 2022, appendix B.2).

    Args:
        gradient: of the result.
        q: (total queries, heads, head width).
        k: (total keys, heads, head width).
        v: (total keys, heads, head width).
        out: result of `forward`.
        logsumexp: of `forward`.
        lengths: of the runs.

    Returns:
        Three tensors shaped as q, k and v.
    """
    by_queries = [x.split(lengths.q) for x in (gradient, q, out)]
    by_keys = [x.split(lengths.k) for x in (k, v)]
    grads = []
    for g, a, o, total, b, c in zip(
        *by_queries, logsumexp.split(lengths.q, 1), *by_keys, strict=True
    ):
        weights = (_scores(a, b) - total[..., None]).exp()
        wide = weights.dtype
        g, a, o, b, c = (x.to(wide) for x in (g, a, o, b, c))
        to_v = torch.einsum("hnm,nhd->mhd", weights, g)
        to_weights = torch.einsum("nhd,mhd->hnm", g, c)
        mean = (g * o).sum(-1).transpose(0, 1)[..., None]
        to_scores = weights * (to_weights - mean) * a.shape[-1] ** -0.5
        to_q = torch.einsum("hnm,mhd->nhd", to_scores, b)
        grads.append((to_q, torch.einsum("hnm,nhd->mhd", to_scores, a), to_v))
    to_q, to_k, to_v = (torch.cat(parts) for parts in zip(*grads, strict=True))
    return to_q.to(q.dtype), to_k.to(k.dtype), to_v.to(v.dtype)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.einsum("nhd,mhd->hnm", q.to(wide) * q.shape[-1] ** -0.5, k.to(wide))
