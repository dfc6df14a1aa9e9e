"""Conditions that the backbone's blocks attend to."""

from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.conditioning.base import Injection
from vedit.errors import ConfigError
from vedit.tokens import Context, TokenSequence


class CrossAttend(Injection):
    """Route the encoded instruction to the cross-attention of the blocks.

    Wan's own way for text. The context comes at width D from its encoder, so there is nothing to
    train here.

    Args:
        spec: sizes of the backbone.

    Raises:
        ConfigError: if the backbone's blocks have no cross-attention.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        if not spec.cross_attention:
            raise ConfigError(
                "CrossAttend needs blocks with cross-attention, which this backbone's `block` does "
                "not have; choose another injection, or CrossBlock as the `block`"
            )

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Set the context.

        Args:
            sequence: any.
            signal: the encoded instruction, tokens (B, L, D).
            name: of the slot.

        Returns:
            The sequence with that context.

        Raises:
            TypeError: if the signal is not a context.
        """
        if not isinstance(signal, Context):
            raise TypeError(f"slot '{name}' attends to an encoded context but is given latents")
        return sequence.with_context(signal)
