"""Fewer bits for weights that do not train: how they are stored and made dense again.

Chosen by `base` of `LoRA` and `Frozen`; null leaves weights as they were loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Stored: TypeAlias = tuple[Tensor, ...]

E4M3_MAX = 448.0
"""The largest number of float8 e4m3 (Micikevicius et al. 2022, table 1)."""

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E)."""

BLOCK = 64
"""Weights that share a scale in four bits, as in QLoRA."""


class Storage(ABC):
    """A way to hold the weight of a linear layer that does not train.

    Attributes:
        bits: per number of a weight, scales included where they are not negligible.
    """

    bits: ClassVar[float]

    @abstractmethod
    def pack(self, weight: Tensor) -> Stored:
        """Store a weight.

        Args:
            weight: (out, in), of any floating type.

        Returns:
            Tensors of the layout that `dense` reads.
        """

    @abstractmethod
    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) again, in a floating type.

        Args:
            stored: what `pack` returned, on any device.
            dtype: to compute in.

        Returns:
            As near to what was packed as `bits` allow.
        """

    def product(self, x: Tensor, stored: Stored, bias: Tensor | None = None) -> Tensor:
        """The layer's output x W^T + b, of x (..., in) in its own type."""
        return F.linear(x, self.dense(stored, x.dtype), bias)

    def transposed(self, gradient: Tensor, stored: Stored) -> Tensor:
        """The gradient of x, g W, of g (..., out) in its own type."""
        return gradient @ self.dense(stored, gradient.dtype)


class BFloat16(Storage):
    """Half of float32: each weight to 8 bits of precision."""

    bits: ClassVar[float] = 16

    def pack(self, weight: Tensor) -> Stored:
        """Round."""
        return (weight.detach().to(torch.bfloat16),)

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Convert; nothing to do where it is computed in bfloat16."""
        return stored[0].to(dtype)


class Float8(Storage):
    """Float8 e4m3 with a scale per output row.

    A row's largest weight becomes 448; a weight w is off by at most max(|w| / 16, scale / 1024).
    Scales are bfloat16 numbers, so that a weight is made dense in bfloat16 with one rounding.

    Args:
        multiply: multiply in float8 as well, forward and backward, with inputs and gradients scaled
            row by row (`torch._scaled_mm`; on CUDA from compute capability 8.9 on). Otherwise
            products are those of the dense weight.
    """

    bits: ClassVar[float] = 8

    def __init__(self, multiply: bool = False) -> None:
        self.multiply = multiply

    def pack(self, weight: Tensor) -> Stored:
        """Codes (out, in) and scales (out, 1)."""
        return _to_float8(weight)

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Codes times scales."""
        codes, scale = stored
        return codes.to(dtype) * scale.to(dtype)

    def product(self, x: Tensor, stored: Stored, bias: Tensor | None = None) -> Tensor:
        """The layer's output, multiplied in float8 if asked for."""
        if not self.multiply:
            return super().product(x, stored, bias)
        codes, scale = stored
        out = _float8_product(x, codes.t(), scale.t())
        return out if bias is None else out + bias

    def transposed(self, gradient: Tensor, stored: Stored) -> Tensor:
        """The gradient of x; for float8 the scales of W's rows go into g before it is rounded."""
        if not self.multiply:
            return super().transposed(gradient, stored)
        codes, scale = stored
        ones = torch.ones(1, codes.shape[1], device=codes.device)
        columns = codes.t().contiguous().t()  # the kernel reads its second factor by columns
        return _float8_product(gradient * scale.t().to(gradient.dtype), columns, ones)


class NF4(Storage):
    """Four bits: the nearest of 16 normal quantiles, with a scale for each 64 weights (QLoRA).

    A weight is off by at most 0.152 of the largest in its block. Scales take half a bit a weight.
    """

    bits: ClassVar[float] = 4.5

    def pack(self, weight: Tensor) -> Stored:
        """Codes, two a byte, scales, and an empty tensor of the weight's shape."""
        flat = weight.detach().float().flatten()
        blocks = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
        scale = blocks.abs().amax(1, keepdim=True)
        levels = torch.tensor(NF4_LEVELS, device=weight.device)
        unit = blocks / scale.clamp(min=torch.finfo(torch.float32).tiny)
        codes = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        pairs = codes.view(-1, BLOCK // 2, 2)
        shape = torch.empty((*weight.shape, 0), dtype=torch.uint8, device=weight.device)
        return pairs[..., 0] | (pairs[..., 1] << 4), scale, shape

    def dense(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        """Levels times scales."""
        codes, scale, shape = stored
        rows, columns, _ = shape.shape
        levels = torch.tensor(NF4_LEVELS, device=codes.device).to(dtype)
        # One table of pairs: a byte gives both of its weights in one look-up.
        table = torch.stack([levels.repeat(16), levels.repeat_interleave(16)], 1)
        flat = (F.embedding(codes.int(), table).flatten(1) * scale.to(dtype)).flatten()
        return flat[: rows * columns].view(rows, columns)


def _to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (n, m) in float8 and scales (n, 1), of (n, m)."""
    wide = x.detach().float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=1e-12) / E4M3_MAX
    scale = scale.bfloat16().float()
    codes = (wide / scale).clamp(-E4M3_MAX, E4M3_MAX)
    return codes.to(torch.float8_e4m3fn), scale


def _float8_product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Multiply x (..., n), rounded to float8 row by row, by codes (n, m) with scales (1, m)."""
    rows, scales = _to_float8(x.flatten(0, -2))
    out = torch._scaled_mm(
        rows, codes, scale_a=scales, scale_b=scale.contiguous(), out_dtype=torch.bfloat16
    )
    return out.unflatten(0, x.shape[:-1]).to(x.dtype)
