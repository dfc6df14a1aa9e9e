"""Condition dropout: train without a condition now and then, so that guidance has both branches."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from vedit.errors import ConfigError


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
            name for name, draw in zip(names, draws, strict=True) if draw < self.probability(name)
        )

    def probability(self, name: str) -> float:
        """The probability with which that condition, not the instruction, is left out."""
        known = {"source": self.source, "mask": self.mask, "reference": self.reference}
        return known.get(name, self.extra)
