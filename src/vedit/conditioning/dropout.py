"""Condition dropout: train without a condition now and then, so that guidance has both branches."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vedit.errors import ConfigError
from vedit.tokens import Context


@dataclass(frozen=True)
class ConditionDropout:
    """Probability with which each condition is left out of a training step.

    The instruction is dropped sample by sample: its context rows become those of the empty
    instruction. Every other condition is dropped for the whole batch, on all ranks alike, since an
    injection must run on every rank or on none.

    Attributes:
        instruction: per sample.
        source: per batch.
        mask: per batch.
        reference: per batch.
        extra: per batch, for each condition beyond these.
    """

    instruction: float = 0.1
    source: float = 0.0
    mask: float = 0.0
    reference: float = 0.0
    extra: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(
                    f"dropout.{field.name}: expected a probability from 0 to 1, got {value}"
                )

    def dropped(self, names: tuple[str, ...], generator: torch.Generator) -> tuple[str, ...]:
        """The conditions to leave out of this batch; one number is drawn for each name."""
        draws = torch.rand(len(names), generator=generator).tolist()
        return tuple(
            name for name, draw in zip(names, draws, strict=True) if draw < self._probability(name)
        )

    def _probability(self, name: str) -> float:
        known = {"source": self.source, "mask": self.mask, "reference": self.reference}
        return known.get(name, self.extra)


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
