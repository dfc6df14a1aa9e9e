"""PyTorch's own attention, and which of its backends runs."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vedit.attention.kernel import Kernel, block_by_block

_SHORT = {torch.bfloat16: 512}
_SHORT_OTHERS = 128
"""Keys up to which a CPU is faster with the scores in memory (beyond, the fused kernel wins)."""

_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by the backend that PyTorch prefers.

    Args:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width).
        v: (B, M, heads, head width).
        valid: (B, M) bool, False where a key is padding.

    Returns:
        (B, N, heads, head width).
    """
    mask = None if valid is None else valid[:, None, None, :]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # heads first
    attend = _attend_short if _is_short(k) else F.scaled_dot_product_attention
    return attend(q, k, v, attn_mask=mask).transpose(1, 2)


def cudnn(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """`sdpa` by cuDNN, or by the first of PyTorch's other backends that takes the request."""
    with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
        return sdpa(q, k, v, valid)


SDPA = Kernel("sdpa", "the default", block_by_block(sdpa))


def _is_short(k: Tensor) -> bool:
    # A compiled graph has one opaque call whatever the length: a branch would compile twice.
    if k.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return k.shape[2] <= _SHORT.get(k.dtype, _SHORT_OTHERS)


def _attend_short(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
    """Attention with the scores in memory.

    Measured forward and backward on 2 threads against the fused kernel: in float32 0.9 of its
    time at 84 keys, the same at 168 (more in a forward pass alone) and twice from 256 on; in
    bfloat16, whose fused backward is slow, 0.25 at 168 keys, 0.5 at 512 and 1.5 at 1024.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v
