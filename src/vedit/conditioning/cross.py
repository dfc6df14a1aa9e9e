"""Conditions that the backbone's blocks attend to."""

from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.conditioning.base import Injection, context_of
from vedit.errors import ConfigError
from vedit.tokens import Context, TokenSequence


class CrossAttend(Injection):
    """Route the encoded instruction to the cross-attention of the blocks.

    Wan's own way for text. The context comes at width D from its encoder, so there is nothing to
    train here. Each stream of the context goes to the branch that the blocks have for it.

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
                "not have; choose AppendContext instead, or CrossBlock as the `block`"
            )
        self.streams = spec.streams

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Set the context.

        Args:
            sequence: any.
            signal: the encoded instruction, tokens (B, L, D), and its streams.
            name: of the slot.

        Returns:
            The sequence with that context.

        Raises:
            TypeError: if the signal is not a context.
            ConfigError: if the blocks have no branch for one of its streams.
        """
        context = context_of(signal, name)
        unknown = [stream for stream in context.streams if stream not in self.streams]
        if unknown:
            raise ConfigError(
                f"{name}: the context has a stream '{unknown[0]}', for which the backbone's "
                f"`block` has no branch (it has {', '.join(self.streams) or 'the main one alone'});"
                " choose vedit.backbones.blocks.DualCrossBlock as the `block`"
            )
        return sequence.with_context(context)
