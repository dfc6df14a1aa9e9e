"""Many runs of different lengths in one call: what "varlen" kernels compute.

The call is one operator (`vedit::attention_runs`) with a backward operator of its own, so that a
compiled graph holds it as it is, whatever library does the work, and so that selective
checkpointing can name it. Lengths are numbers of the host. Their cumulative sums are put on the
device once for each combination, not once in every layer: no step waits for them.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vedit.attention.blocks import Block

LIBRARIES = {
    "reference": "vedit.attention.reference",
    "flash": "vedit.attention.flash2",
    "flash3": "vedit.attention.flash3",
    "flash4": "vedit.attention.flash4",
    "xformers": "vedit.attention.xformers_runs",
}
"""Module, with `forward` and `backward`, behind each name."""


class Lengths(NamedTuple):
    """Lengths of all runs.

    Attributes:
        q: queries of each run.
        k: keys of each run.
        q_starts: (runs + 1,) int32 on the device, first query of each run and the end of the last.
        k_starts: the same of the keys.
    """

    q: tuple[int, ...]
    k: tuple[int, ...]
    q_starts: Tensor
    k_starts: Tensor


class Library(Protocol):
    """A module that computes runs; tensors are (total queries or keys, heads, head width)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
        """The result, and the log-sum-exp (heads, total queries) of the scores."""

    def backward(
        self,
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        lengths: Lengths,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v."""


class Runs:
    """Attends within blocks, all runs in one call.

    Args:
        library: a key of `LIBRARIES`.
    """

    def __init__(self, library: str) -> None:
        self.library = library

    def __call__(self, blocks: list[Block]) -> Tensor:
        """Attend within each block.

        Args:
            blocks: without padding.

        Returns:
            (B, N, heads, head width), the blocks one after the other.
        """
        batch = blocks[0].q.shape[0]
        q = _joined([block.q for block in blocks])
        k = _joined([block.k for block in blocks])
        v = _joined([block.v for block in blocks])
        q_lengths = [n for block in blocks for n in [block.q.shape[1]] * batch]
        k_lengths = [n for block in blocks for n in [block.k.shape[1]] * batch]
        out = attend_runs(q, k, v, q_lengths, k_lengths, self.library)[0]
        if len(blocks) == 1 or batch == 1:
            return out.unflatten(0, (batch, -1))
        pieces = out.split([batch * block.q.shape[1] for block in blocks])
        return torch.cat([piece.unflatten(0, (batch, -1)) for piece in pieces], 1)

    def dense(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """One block; `valid` must be None."""
        assert valid is None
        return self([Block(q, k, v, None)])


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts (B, n, heads, head width), block by block, to (total, heads, head width)."""
    return (
        torch.cat([part.flatten(0, 1) for part in parts])
        if len(parts) > 1
        else parts[0].flatten(0, 1)
    )


@torch.library.custom_op("vedit::attention_runs", mutates_args=())
def attend_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    library: str,
) -> tuple[Tensor, Tensor]:
    """Attend within each run.

    Args:
        q: (total queries, heads, head width).
        k: (total keys, heads, head width).
        v: (total keys, heads, head width).
        q_lengths: queries of each run.
        k_lengths: keys of each run.
        library: a key of `LIBRARIES`.

    Returns:
        (total queries, heads, head width), and the log-sum-exp (heads, total queries) that the
        backward pass reads.
    """
    return _module(library).forward(q, k, v, _lengths(q_lengths, k_lengths, q.device))


@attend_runs.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Any, k_lengths: Any, library: str
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=wide)


@register_flop_formula(torch.ops.vedit.attention_runs)
def _flops(
    q: Sequence[int], k: Any, v: Any, q_lengths: Any, k_lengths: Any, *rest: Any, **named: Any
) -> int:
    """Operations of a call on shapes; the compiler weighs what to compute again by them."""
    pairs = sum(m * n for m, n in zip(q_lengths, k_lengths, strict=True))
    return 4 * pairs * q[1] * q[2]


@torch.library.custom_op("vedit::attention_runs_backward", mutates_args=())
def _attend_runs_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    library: str,
) -> tuple[Tensor, Tensor, Tensor]:
    lengths = _lengths(q_lengths, k_lengths, q.device)
    return _module(library).backward(gradient.contiguous(), q, k, v, out, logsumexp, lengths)


@_attend_runs_backward.register_fake
def _(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.q_lengths, ctx.k_lengths, ctx.library = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 6
    grads = _attend_runs_backward(
        gradient, *ctx.saved_tensors, ctx.q_lengths, ctx.k_lengths, ctx.library
    )
    return (*grads, None, None, None)


attend_runs.register_autograd(_backward, setup_context=_remember)


@lru_cache
def _module(library: str) -> Library:
    return cast(Library, import_module(LIBRARIES[library]))


def _lengths(q: Sequence[int], k: Sequence[int], device: torch.device) -> Lengths:
    return _on_device(tuple(q), tuple(k), device)


@lru_cache(maxsize=256)
def _on_device(q: tuple[int, ...], k: tuple[int, ...], device: torch.device) -> Lengths:
    return Lengths(q, k, _starts(q, device), _starts(k, device))


def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    if device.type == "cuda":
        return ends.pin_memory().to(device, non_blocking=True)
    return ends.to(device)
