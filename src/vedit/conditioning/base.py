"""What an injection is."""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

from torch import Tensor, nn

from vedit.tokens import Context, TokenSequence

Reads: TypeAlias = Literal["latents", "pixels"]
"""What a condition is given as: latents (B, C, t, h, w), or pixels (B, 3, F, H, W) in [-1, 1]."""


class Injection(nn.Module, ABC):
    """How one condition enters the sequence.

    A subclass takes the `BackboneSpec` as its first constructor argument, the rest comes from the
    configuration.

    Attributes:
        reads: whether it is given the latents of its condition or the pixels themselves.
    """

    reads: Reads = "latents"

    @abstractmethod
    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """The sequence with the condition in it.

        Args:
            sequence: what the earlier slots have made.
            signal: latents (B, C, t, h, w), pixels (B, 3, F, H, W) if it `reads` them, or the
                encoded instruction.
            name: of the slot, which names a new segment and appears in messages.

        Returns:
            A new sequence; the given one is unchanged.
        """


def context_of(signal: Tensor | Context, name: str) -> Context:
    """The signal as an encoded instruction.

    Args:
        signal: what a slot is given.
        name: of the slot.

    Returns:
        Tokens (B, L, D).

    Raises:
        TypeError: if it is latents.
    """
    if not isinstance(signal, Context):
        raise TypeError(f"slot '{name}' attends to an encoded context but is given latents")
    return signal


def latents_of(signal: Tensor | Context, name: str) -> Tensor:
    """The signal as latents.

    Args:
        signal: what a slot is given.
        name: of the slot.

    Returns:
        (B, C, t, h, w).

    Raises:
        TypeError: if it is the encoded instruction.
    """
    if isinstance(signal, Context):
        raise TypeError(f"slot '{name}' is given an encoded context but injects latents")
    return signal
