"""Adaptive layer norm and gates, one row per sample and segment.

Rows are applied to contiguous runs of tokens; a table of one row per token (2.5 GiB in float32 at
81 x 704 x 1280 with a source) is never built. Eagerly, two hand-written backward passes do it: they
write each run in place instead of splitting and concatenating, and keep only their inputs. Under
`torch.compile` the plain formulas are traced, which the compiler fuses by itself.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vedit.backbones.norm import at_least_float32

Lengths = tuple[int, ...]


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, lengths: Lengths, eps: float) -> Tensor:
    """Normalise tokens, then scale and shift each segment by its own row.

    layer_norm(x) (1 + scale) + shift (adaLN: Peebles and Xie 2023, section 3.2).

    Args:
        x: (B, N, D).
        shift: (B, G, D), in at least float32.
        scale: (B, G, D), added to one.
        lengths: tokens per segment, G numbers that sum to N.
        eps: of the normalisation.

    Returns:
        (B, N, D) in the dtype of `x`.
    """
    if torch.compiler.is_compiling():
        return plain_modulated_norm(x, shift, scale, lengths, eps)
    out: Tensor = _ModulatedNorm.apply(x, shift, 1 + scale, lengths, eps)
    return out


def add_gated(x: Tensor, update: Tensor, gate: Tensor, lengths: Lengths) -> Tensor:
    """Add an update to tokens, gated per segment: x + gate update.

    Args:
        x: (B, N, D).
        update: (B, N, D).
        gate: (B, G, D), in at least float32.
        lengths: tokens per segment.

    Returns:
        (B, N, D) in the dtype of `x`.
    """
    if torch.compiler.is_compiling():
        return plain_add_gated(x, update, gate, lengths)
    out: Tensor = _AddGated.apply(x, update, gate, lengths)
    return out


def plain_modulated_norm(
    x: Tensor, shift: Tensor, scale: Tensor, lengths: Lengths, eps: float
) -> Tensor:
    """`modulated_norm` in plain operators.

    Each run is normalised by itself: norm and row become one loop, and what the backward pass finds
    cheapest to keep is the half-precision input. Normalised as one, it would be its float32 result.
    """
    rows = zip(shift.split(1, 1), scale.split(1, 1), x.split(lengths, 1), strict=True)
    done = [
        F.layer_norm(at_least_float32(run), x.shape[-1:], eps=eps) * (1 + gain) + offset
        for offset, gain, run in rows
    ]
    return torch.cat([run.to(x.dtype) for run in done], 1)


def plain_add_gated(x: Tensor, update: Tensor, gate: Tensor, lengths: Lengths) -> Tensor:
    """`add_gated` in plain operators."""
    runs = zip(gate.split(1, 1), x.split(lengths, 1), update.split(lengths, 1), strict=True)
    done = [(at_least_float32(run) + row * more).to(x.dtype) for row, run, more in runs]
    return torch.cat(done, 1)


def _runs(lengths: Lengths) -> Iterator[tuple[int, slice]]:
    """Index and place of each segment."""
    start = 0
    for g, length in enumerate(lengths):
        yield g, slice(start, start + length)
        start += length


def _joined(runs: Sequence[Tensor], batch: int) -> Tensor:
    """Runs (n, D), sample by sample, to (B, N, D)."""
    flat = runs[0] if len(runs) == 1 else torch.cat(list(runs))
    return flat.unflatten(0, (batch, -1))


class _ModulatedNorm(torch.autograd.Function):
    """Layer norm whose affine weights are the rows: one fused kernel per sample and segment."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, gain: Tensor, lengths: Lengths, eps: float
    ) -> Tensor:
        done = [
            torch.native_layer_norm(
                x[b, run].to(gain.dtype), x.shape[-1:], gain[b, g], shift[b, g], eps
            )
            for b in range(len(x))
            for g, run in _runs(lengths)
        ]
        out, mean, inverse_std = (_joined(runs, len(x)) for runs in zip(*done, strict=True))
        ctx.save_for_backward(x, shift, gain, mean, inverse_std)
        ctx.lengths = lengths
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, gain, mean, inverse_std = ctx.saved_tensors
        for_x, for_shift, for_gain = ctx.needs_input_grad[:3]
        gradient = gradient.contiguous()
        done = [
            torch.ops.aten.native_layer_norm_backward(
                gradient[b, run].to(gain.dtype),
                x[b, run].to(gain.dtype),
                x.shape[-1:],
                mean[b, run],
                inverse_std[b, run],
                gain[b, g],
                shift[b, g],
                [for_x, for_gain, for_shift],
            )
            for b in range(len(x))
            for g, run in _runs(ctx.lengths)
        ]
        to_x, to_gain, to_shift = zip(*done, strict=True)
        return (
            _joined(to_x, len(x)).to(x.dtype) if for_x else None,
            torch.stack(to_shift).view_as(shift) if for_shift else None,
            torch.stack(to_gain).view_as(gain) if for_gain else None,
            None,
            None,
        )


class _AddGated(torch.autograd.Function):
    """x + gate update, run by run, in place of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, gate: Tensor, lengths: Lengths) -> Tensor:
        out = torch.empty_like(x)
        for g, run in _runs(lengths):
            torch.addcmul(x[:, run], update[:, run], gate[:, g, None], out=out[:, run])
        # Only the gradient of a gate reads the update. A frozen gate is kept by hand: what a
        # recomputation need not save last lets it stop before the product that made the update.
        ctx.gate = None if ctx.needs_input_grad[2] else gate
        if ctx.gate is None:
            ctx.save_for_backward(update, gate)
        ctx.lengths, ctx.dtype = lengths, update.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        update, gate = ctx.saved_tensors if ctx.gate is None else (None, ctx.gate)
        to_update = to_gate = None
        if ctx.needs_input_grad[1]:
            to_update = torch.empty_like(gradient, dtype=ctx.dtype)
            for g, run in _runs(ctx.lengths):
                torch.mul(gradient[:, run], gate[:, g, None], out=to_update[:, run])
        if update is not None:
            to_gate = torch.empty_like(gate)
            for g, run in _runs(ctx.lengths):
                to_gate[:, g] = (gradient[:, run].to(gate.dtype) * update[:, run]).sum(1)
        return gradient, to_update, to_gate, None
