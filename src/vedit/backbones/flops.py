"""Floating-point operations of a Wan-like transformer, counted by formula.

A multiply-add is two operations. Embeddings, norms and the head are left out: below one percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vedit.tokens import AttentionLayout

Training = Literal["full", "lora", "frozen"]


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass of one sample.

    Attributes:
        linear: in the projections and feed-forward layers.
        attention: in the products of queries with keys, and of weights with values.
    """

    linear: float
    attention: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.linear + self.attention


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
    layout: AttentionLayout, context_tokens: int, width: int, ffn_width: int, blocks: int
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

    Returns:
        Floating-point operations for one sample, a multiplication and an addition counted as two.
    """
    tokens = sum(layout.lengths)
    linear = 8 * width**2 * tokens + 4 * width * ffn_width * tokens
    if context_tokens:
        linear += 4 * width**2 * (tokens + context_tokens)
    attention = 4 * width * (attended_pairs(layout) + tokens * context_tokens)
    return Flops(float(blocks * linear), float(blocks * attention))


def step_flops(forward: Flops, training: Training, recompute: bool = False) -> float:
    """Operations of a training step.

    Full finetuning costs three forward passes: the gradients of activations and of weights cost one
    each. With frozen weights under adapters the linear layers need no gradient of weights, hence
    two and three. Recomputing activations costs one forward pass more.

    Args:
        forward: of one sample.
        training: what trains in the backbone; a frozen one still passes gradients on.
        recompute: whether activations are recomputed in the backward pass.

    Returns:
        Floating-point operations for one sample.
    """
    linear = 3 if training == "full" else 2
    steps = linear * forward.linear + 3 * forward.attention
    return steps + (forward.total if recompute else 0.0)
