"""What guidance needs: contexts in which the empty instruction takes the place of some."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vedit.batch import Conditions
from vedit.tokens import Context
from vedit.transfer import sent


def replace_rows(context: Context, null: Context, rows: Tensor) -> Context:
    """The context with some of its samples replaced by the empty instruction.

    Args:
        context: tokens (B, L, D), and streams.
        null: tokens (B or 1, M, D), and streams.
        rows: (B,) bool, True where a sample is replaced.

    Returns:
        Tokens (B, max(L, M), D); where lengths differ the shorter one is padded and marked so. Each
        stream is treated likewise; one that `null` lacks is kept as it is, one that only `null` has
        is all padding in the context.
    """
    context, null = aligned(context, _with_streams_of(null, context))
    choose = sent(rows, context.tokens.device)[:, None]
    tokens = torch.where(choose[..., None], null.tokens.to(context.tokens.dtype), context.tokens)
    valid = None
    if context.valid is not None and null.valid is not None:
        valid = torch.where(choose, null.valid, context.valid)
    streams = {n: replace_rows(c, null.streams[n], rows) for n, c in context.streams.items()}
    return Context(tokens, valid, streams)


def twice(conditions: Conditions, null: Context) -> Conditions:
    """The conditions stacked over the same conditions with the empty instruction.

    Args:
        conditions: of B samples, with a context.
        null: the context of the empty instruction for as many samples. A stream that it lacks,
            such as images that an instruction speaks of, is the same in both halves, as the latents
            are.

    Returns:
        Conditions of 2B samples, the given ones first.
    """
    assert conditions.context is not None
    null = _with_streams_of(null, conditions.context)
    latents = {name: torch.cat([value, value]) for name, value in conditions.latents.items()}
    return Conditions(latents, stacked(conditions.context, null))


def stacked(first: Context, second: Context) -> Context:
    """Two contexts along the batch, with their streams.

    Args:
        first: tokens (B, L, D).
        second: tokens (B', M, D); they take the dtype and the device of the first.

    Returns:
        Tokens (B + B', max(L, M), D); the shorter one is padded and marked so.
    """
    first, second = aligned(first, second)
    valid = None
    if first.valid is not None and second.valid is not None:
        valid = torch.cat([first.valid, second.valid.to(first.valid.device)])
    streams = {name: stacked(c, second.streams[name]) for name, c in first.streams.items()}
    return Context(torch.cat([first.tokens, second.tokens.to(first.tokens)]), valid, streams)


def aligned(first: Context, second: Context) -> tuple[Context, Context]:
    """Two contexts padded to one length, with the same streams.

    Args:
        first: tokens (B, L, D).
        second: tokens (B', M, D).

    Returns:
        Both at max(L, M) tokens. Masks appear only if one of the two needs one; a stream that one
        of them lacks is all padding there.
    """
    names = {**first.streams, **second.streams}
    pairs = {n: aligned(_stream(first, second, n), _stream(second, first, n)) for n in names}
    lengths = first.tokens.shape[1], second.tokens.shape[1]
    if lengths[0] != lengths[1] or first.valid is not None or second.valid is not None:
        first, second = _padded(first, max(lengths)), _padded(second, max(lengths))
    return (
        replace(first, streams={n: pair[0] for n, pair in pairs.items()}),
        replace(second, streams={n: pair[1] for n, pair in pairs.items()}),
    )


def _with_streams_of(null: Context, context: Context) -> Context:
    """The null context with the streams of `context` that it lacks."""
    return replace(null, streams={**context.streams, **null.streams})


def _stream(context: Context, other: Context, name: str) -> Context:
    """A stream of `context`, all padding if only `other` has it."""
    if name in context.streams:
        return context.streams[name]
    like = other.streams[name].tokens
    tokens = like.new_zeros(context.tokens.shape[0], *like.shape[1:])
    return Context(tokens, torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def _padded(context: Context, length: int) -> Context:
    tokens, valid = context.tokens, context.valid
    if valid is None:
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    missing = length - tokens.shape[1]
    pad = torch.nn.functional.pad
    return Context(pad(tokens, (0, 0, 0, missing)), pad(valid, (0, missing)))
