"""What guidance needs: contexts in which the empty instruction takes the place of some."""

from __future__ import annotations

import torch
from torch import Tensor

from vedit.batch import Conditions
from vedit.tokens import Context


def replace_rows(context: Context, null: Context, rows: Tensor) -> Context:
    """The context with some of its samples replaced by the empty instruction.

    Args:
        context: tokens (B, L, D).
        null: tokens (B or 1, M, D).
        rows: (B,) bool, True where a sample is replaced.

    Returns:
        Tokens (B, max(L, M), D); where lengths differ the shorter one is padded and marked so.
    """
    context, null = aligned(context, null)
    choose = rows.to(context.tokens.device)[:, None]
    tokens = torch.where(choose[..., None], null.tokens.to(context.tokens.dtype), context.tokens)
    if context.valid is None or null.valid is None:
        return Context(tokens)
    return Context(tokens, torch.where(choose, null.valid, context.valid))


def twice(conditions: Conditions, null: Context) -> Conditions:
    """The conditions stacked over the same conditions with the empty instruction."""
    assert conditions.context is not None
    first, second = aligned(conditions.context, null)
    valid = None
    if first.valid is not None and second.valid is not None:
        valid = torch.cat([first.valid, second.valid])
    context = Context(torch.cat([first.tokens, second.tokens.to(first.tokens)]), valid)
    latents = {name: torch.cat([value, value]) for name, value in conditions.latents.items()}
    return Conditions(latents, context)


def aligned(first: Context, second: Context) -> tuple[Context, Context]:
    """Two contexts padded to one length; masks appear only if one of them needs one."""
    lengths = first.tokens.shape[1], second.tokens.shape[1]
    if lengths[0] == lengths[1] and first.valid is None and second.valid is None:
        return first, second
    return _padded(first, max(lengths)), _padded(second, max(lengths))


def _padded(context: Context, length: int) -> Context:
    tokens, valid = context.tokens, context.valid
    if valid is None:
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    missing = length - tokens.shape[1]
    pad = torch.nn.functional.pad
    return Context(pad(tokens, (0, 0, 0, missing)), pad(valid, (0, missing)))
