"""Normalisations that compute in at least float32."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that computes in at least float32, whatever the dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D) in the dtype of `x`."""
        wide = at_least_float32(x)
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        return F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a weight (Zhang and Sennrich 2019, eq. 4).

    Args:
        width: D.
        eps: keeps the root away from zero.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D) in the dtype of `x`."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            out: Tensor = _RMSNorm.apply(x, self.weight, self.eps)
            return out
        # The accelerators have a fused kernel for it; the CPU would go through five operators.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """RMS normalisation that keeps its input and one number per token for the backward pass.

    With n = x / rms and g the gradient of the output times the weight, the gradient of the input is
    (g - n mean(g n)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        dtype = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).square_()
        inverse_rms = squares.div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse_rms)
        return (x * inverse_rms).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse_rms = ctx.saved_tensors
        wide = weight.to(inverse_rms.dtype)
        n = x * inverse_rms
        product = gradient * n
        mean = (product @ wide).div_(x.shape[-1]).unsqueeze(-1)
        to_x = (gradient * wide).addcmul_(n, mean, value=-1).mul_(inverse_rms)
        to_weight = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return to_x.to(x.dtype), None if to_weight is None else to_weight.to(weight.dtype), None
