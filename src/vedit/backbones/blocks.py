"""Transformer blocks, chosen by `model.backbone.init_args.block`.

Parameters bear the names that diffusers' Wan blocks give them, so that pretrained weights load
without a conversion table and adapters trained here load there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vedit.backbones.layers import Attention, DualAttention, FeedForward, Surroundings
from vedit.backbones.modulation import add_gated, modulated_norm
from vedit.backbones.norm import LayerNorm, at_least_float32


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
        x, lengths = tokens, around.lengths
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
        x, lengths = tokens, around.lengths
        shift1, scale1, gate1, shift3, scale3, gate3 = _rows(self.scale_shift_table, around)

        h = modulated_norm(x, shift1, scale1, lengths, self.eps)
        x = add_gated(x, self.attn1(h, around), gate1, lengths)
        h = modulated_norm(x, shift3, scale3, lengths, self.eps)
        return add_gated(x, self.ffn(h), gate3, lengths)


class DualCrossBlock(CrossBlock):
    """Wan's block with a second branch in cross-attention, for a stream of the context.

    Wan's image-to-video models read CLIP's image tokens so, beside the text (parameters bear the
    names that diffusers gives those models with `added_kv_proj_dim`). MiVE compares with it in
    section 6.3.1: text and image, or the first and the last layer of one encoder. Weights without
    the branch, such as those of a text-to-video model, load too; the branch then starts without
    effect.

    Args:
        shape: sizes of the block.
        stream: name of the stream that the second branch reads.
    """

    fresh: ClassVar[tuple[str, ...]] = (
        "attn2.add_k_proj.",
        "attn2.add_v_proj.",
        "attn2.norm_added_k.",
    )

    def __init__(self, shape: BlockShape, stream: str = "image") -> None:
        super().__init__(shape)
        self.streams = (stream,)
        self.attn2: DualAttention = DualAttention(shape.width, shape.heads, shape.eps, stream)

    def init_fresh(self) -> None:
        """Give the second branch zero values."""
        self.attn2.init_added()
