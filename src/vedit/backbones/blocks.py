"""Transformer blocks and the modulation they share.

Parameters bear the names that diffusers' Wan blocks give them, so that pretrained weights load
without a conversion table and adapters trained here load there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedit.attention import Kernel, attention
from vedit.backbones.modulation import add_gated, modulated_norm
from vedit.backbones.norm import LayerNorm, RMSNorm, at_least_float32
from vedit.backbones.rope import rotate
from vedit.tokens import AttentionLayout, Context


@dataclass(frozen=True)
class BlockShape:
    """The sizes of a block.

    Attributes:
        width: D.
        heads: attention heads.
        ffn_width: hidden width of the feed-forward layer.
        cross_attn_norm: whether cross-attention reads normalised tokens.
        eps: of every normalisation.
    """

    width: int
    heads: int
    ffn_width: int
    cross_attn_norm: bool = True
    eps: float = 1e-6


@dataclass(frozen=True)
class Surroundings:
    """What every block of one forward pass reads besides the tokens.

    Attributes:
        modulation: (B, G, 6, D), one row per sample and segment.
        rotation: (N, head width / 2) complex, from `vedit.backbones.rope.rotation`.
        layout: lengths and visibility of the segments.
        context: what cross-attention attends to, None for nothing.
        kernel: the attention implementation.
        valid: (B, N) bool, False where a token is padding; None if there is none.
    """

    modulation: Tensor
    rotation: Tensor
    layout: AttentionLayout
    context: Context | None
    kernel: Kernel
    valid: Tensor | None = None


class Block(nn.Module, ABC):
    """A transformer block: tokens in, tokens out.

    Attributes:
        cross_attention: whether it attends to a context.
        streams: names of the contexts, beyond the main one, that it has branches for.
        unused: beginnings of names inside a block that published weights have and it does not.
        fresh: beginnings of names inside it that published weights may lack, all or none of them;
            then `init_fresh` gives their values.
    """

    cross_attention: ClassVar[bool]
    streams: tuple[str, ...] = ()
    unused: ClassVar[tuple[str, ...]] = ()
    fresh: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, tokens: Tensor, around: Surroundings) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""

    def init_fresh(self) -> None:
        """Initialise what `fresh` names so that the block computes what it would without it."""


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (normalised across heads).

    Args:
        width: D.
        heads: number of heads; must divide D.
        eps: of the normalisation.
    """

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        # A list of one, because "to_out.0" is the name that weights and adapters use.
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = RMSNorm(width, eps)
        self.norm_k = RMSNorm(width, eps)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def forward(
        self, tokens: Tensor, around: Surroundings, context: Context | None = None
    ) -> Tensor:
        """Self-attention, or attention to `context` if one is given.

        Args:
            tokens: (B, N, D).
            around: kernel, layout and rotation.
            context: what to attend to; None is the tokens themselves.

        Returns:
            (B, N, D).
        """
        q = self._split(self.norm_q(self.to_q(tokens)))
        if context is not None:
            return self.to_out[0](self.read(q, context, around).flatten(2))
        k = self._split(self.norm_k(self.to_k(tokens)))
        v = self._split(self.to_v(tokens))
        q, k = rotate(q, around.rotation), rotate(k, around.rotation)
        out = attention(q, k, v, around.layout, around.valid, around.kernel)
        return self.to_out[0](out.flatten(2))

    def read(self, q: Tensor, context: Context, around: Surroundings) -> Tensor:
        """Attend to a context.

        Args:
            q: (B, N, heads, head width).
            context: tokens (B, L, D).
            around: the kernel.

        Returns:
            (B, N, heads, head width), before the output projection.
        """
        k = self._split(self.norm_k(self.to_k(context.tokens)))
        v = self._split(self.to_v(context.tokens))
        return attention(q, k, v, valid=context.valid, kernel=around.kernel)


class _GELUProjection(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Linear, GELU (tanh), Linear; named `net.0.proj` and `net.2`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [_GELUProjection(width, hidden), nn.Identity(), nn.Linear(hidden, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return self.net[2](self.net[0](x))


def _rows(table: Tensor, around: Surroundings) -> tuple[Tensor, ...]:
    """Shift, scale and gate of self-attention, then of the feed-forward, each (B, G, D)."""
    return (table + at_least_float32(around.modulation)).unbind(2)


class CrossBlock(Block):
    """Wan's block: self-attention, cross-attention to the context, feed-forward.

    Self-attention and feed-forward are modulated by the noise level of each segment (adaptive layer
    norm with gates, Peebles and Xie 2023, section 3.2); cross-attention is not. Without a context
    it is skipped.

    Args:
        shape: sizes of the block.
    """

    cross_attention: ClassVar[bool] = True

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        width, eps = shape.width, shape.eps
        self.eps = eps
        self.attn1 = Attention(width, shape.heads, eps)
        self.norm2 = LayerNorm(width, eps) if shape.cross_attn_norm else nn.Identity()
        self.attn2 = Attention(width, shape.heads, eps)
        self.ffn = FeedForward(width, shape.ffn_width)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, tokens: Tensor, around: Surroundings) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        x, lengths = tokens, around.layout.lengths
        shift1, scale1, gate1, shift3, scale3, gate3 = _rows(self.scale_shift_table, around)

        h = modulated_norm(x, shift1, scale1, lengths, self.eps)
        x = add_gated(x, self.attn1(h, around), gate1, lengths)
        if around.context is not None:
            x = x + self.attn2(self.norm2(x), around, around.context)
        h = modulated_norm(x, shift3, scale3, lengths, self.eps)
        return add_gated(x, self.ffn(h), gate3, lengths)


class UnifiedBlock(Block):
    """Wan's block without cross-attention: one self-attention over everything in the sequence.

    The context is a segment like the others (`AppendContext`), modulated as clean; MiVE, section
    4.4, equation 7. Parameters bear the names of Wan's, whose `attn2` and `norm2` stay unused.

    Args:
        shape: sizes of the block; `cross_attn_norm` has no meaning here.
    """

    cross_attention: ClassVar[bool] = False
    unused: ClassVar[tuple[str, ...]] = ("attn2.", "norm2.")

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.eps = shape.eps
        self.attn1 = Attention(shape.width, shape.heads, shape.eps)
        self.ffn = FeedForward(shape.width, shape.ffn_width)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, shape.width) / shape.width**0.5)

    def forward(self, tokens: Tensor, around: Surroundings) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        x, lengths = tokens, around.layout.lengths
        shift1, scale1, gate1, shift3, scale3, gate3 = _rows(self.scale_shift_table, around)

        h = modulated_norm(x, shift1, scale1, lengths, self.eps)
        x = add_gated(x, self.attn1(h, around), gate1, lengths)
        h = modulated_norm(x, shift3, scale3, lengths, self.eps)
        return add_gated(x, self.ffn(h), gate3, lengths)
