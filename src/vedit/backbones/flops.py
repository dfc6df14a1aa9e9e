"""Floating-point operations of a Wan-like transformer, counted by formula.

A multiply-add is two operations. Embeddings, norms and the head are left out: below one percent.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from torch import nn

from vedit.tokens import AttentionLayout

Training = Literal["full", "lora", "frozen"]

OF_CONTEXT = re.compile(r"\.attn2\.(add_)?(to_)?[kv](_proj)?\.")
"""Layers of cross-attention that read the context, by their names within a block."""


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass of one sample.

    Attributes:
        linear: in the projections and feed-forward layers.
        attention: in the products of queries with keys, and of weights with values.
        feed_forward: those of `linear` in the feed-forward layers.
        cross_attention: those of `attention` in cross-attention.
        adapters: in low-rank adapters, beside `linear`.
        unread: those of `linear` at the end of each block whose result no gradient is made from.
    """

    linear: float
    attention: float
    feed_forward: float = 0.0
    cross_attention: float = 0.0
    adapters: float = 0.0
    unread: float = 0.0

    @property
    def total(self) -> float:
        """All together."""
        return self.linear + self.attention + self.adapters

    def scaled(self, factor: float) -> Flops:
        """Every count times a factor."""
        return Flops(**{name: factor * count for name, count in asdict(self).items()})


def attended_pairs(layout: AttentionLayout) -> int:
    """(query, key) pairs of self-attention.

    Args:
        layout: lengths of the segments, and which of them each one sees.

    Returns:
        How many there are, for one sample and one head.

    Examples:
        >>> attended_pairs(AttentionLayout((3, 2)))
        25
        >>> attended_pairs(AttentionLayout((3, 2), ((0, 1), (1,))))
        19
    """
    lengths = layout.lengths
    if layout.sees is None:
        return sum(lengths) ** 2
    seen = [sum(lengths[i] for i in row) for row in layout.sees]
    return sum(n * keys for n, keys in zip(lengths, seen, strict=True))


def forward_flops(
    layout: AttentionLayout,
    context_tokens: int,
    width: int,
    ffn_width: int,
    blocks: int,
    adapters: float = 0.0,
    ends_unread: bool = False,
) -> Flops:
    """Operations of a forward pass.

    With d the width, f the hidden width of the feed-forward layers, S tokens and L context tokens,
    a block costs `8 d^2 S` (self-attention's projections) + `4 d^2 S + 4 d^2 L` (cross-attention's)
    + `4 d f S` (feed-forward) + `4 d` for each pair in self-attention + `4 S L d` in
    cross-attention.

    Args:
        layout: segments of the sequence.
        context_tokens: L; 0 leaves cross-attention out.
        width: d.
        ffn_width: f.
        blocks: number of transformer blocks.
        adapters: of all adapters, from `adapter_flops`.
        ends_unread: from the function of that name.

    Returns:
        Floating-point operations for one sample, a multiplication and an addition counted as two.
    """
    tokens = sum(layout.lengths)
    feed_forward = 4 * width * ffn_width * tokens
    linear = 8 * width**2 * tokens + feed_forward
    if context_tokens:
        linear += 4 * width**2 * (tokens + context_tokens)
    cross = 4 * width * tokens * context_tokens
    attention = 4 * width * attended_pairs(layout) + cross
    return Flops(
        linear=float(blocks * linear),
        attention=float(blocks * attention),
        feed_forward=float(blocks * feed_forward),
        cross_attention=float(blocks * cross),
        adapters=adapters,
        unread=float(blocks * feed_forward / 2) if ends_unread else 0.0,
    )


def adapter_flops(blocks: nn.Module, tokens: int, context_tokens: int) -> float:
    """Operations of the low-rank adapters in the blocks, forward.

    Each number of A and B costs two operations per token that its layer reads.

    Args:
        blocks: the blocks of a backbone, adapted or not.
        tokens: S.
        context_tokens: L, what keys and values of cross-attention are made from.

    Returns:
        Floating-point operations for one sample; 0 without adapters.
    """
    total = 0
    for name, parameter in blocks.named_parameters():
        if ".lora_" in name:
            reads = context_tokens if OF_CONTEXT.search(name) else tokens
            unused = ".attn2." in name and not context_tokens
            total += 0 if unused else 2 * parameter.numel() * reads
    return float(total)


def ends_unread(block: nn.Module) -> bool:
    """Whether no gradient is made from the result of a block's last product.

    That is so where neither the gate behind it trains nor an adapter beside it, and computing the
    block again then stops before it.

    Args:
        block: one of a backbone, with `ffn` and `scale_shift_table`.

    Returns:
        False for a block that trains, or that has other parts.
    """
    named = dict(block.named_parameters())
    last = any(name.startswith("ffn.net.2.lora_") for name in named)
    gate = named.get("scale_shift_table")
    return gate is not None and not gate.requires_grad and not last


def step_flops(forward: Flops, training: Training, again: float = 0.0) -> float:
    """Operations of a training step.

    Full finetuning costs three forward passes: the gradients of activations and of weights cost one
    each. With frozen weights under adapters the linear layers need no gradient of weights, hence
    two for them, three for attention and adapters. Utilisation of the model (MFU) counts those
    alone; utilisation of the hardware (HFU) counts what is computed again as well.

    Args:
        forward: of one sample.
        training: what trains in the backbone; a frozen one still passes gradients on.
        again: what the backward pass computes again, from `recompute.recomputed_flops`.

    Returns:
        Floating-point operations for one sample.
    """
    linear = 3 if training == "full" else 2
    return linear * forward.linear + 3 * (forward.attention + forward.adapters) + again
