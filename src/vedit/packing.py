"""Samples of different shapes side by side in one sequence, without padding.

Tokens of all samples follow one another; self-attention sees the tokens of one's own sample,
cross-attention one's own context, and each segment keeps its noise level. A sample so gets the
velocity that it would get alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from vedit.tokens import AttentionLayout, Context, Packed, Segment, Target, TokenSequence


@dataclass(frozen=True)
class SideBySide:
    """Sequences of one sample each, packed as one.

    Attributes:
        sequences: at least one, each with B = 1; all with a context, or none.

    Raises:
        ValueError: if one holds several samples, or some have a context and others none.
    """

    sequences: tuple[TokenSequence, ...]

    def __post_init__(self) -> None:
        for sequence in self.sequences:
            count = sequence.segments[0].tokens.shape[0]
            if count != 1:
                raise ValueError(f"each sequence side by side holds one sample, one has {count}")
        if len({sequence.context is None for sequence in self.sequences}) != 1:
            raise ValueError("of the samples side by side, some have a context and others none")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of all samples, in packed order."""
        return tuple(segment for sequence in self.sequences for segment in sequence.segments)

    @property
    def context(self) -> Context | None:
        """The contexts of all samples, one after the other."""
        contexts = [sequence.context for sequence in self.sequences]
        present = [context for context in contexts if context is not None]
        return joined_contexts(present) if present else None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target of each sample."""
        firsts = _firsts([len(sequence.segments) for sequence in self.sequences])
        return tuple(
            target._replace(place=first + target.place)
            for first, sequence in zip(firsts, self.sequences, strict=True)
            for target in sequence.targets
        )

    def pack(self) -> Packed:
        """Flatten all samples into the tensors that the blocks read, with B = 1."""
        parts = [sequence.pack() for sequence in self.sequences]
        return Packed(
            tokens=torch.cat([part.tokens for part in parts], 1),
            positions=torch.cat([part.positions for part in parts]),
            sigma=torch.cat([part.sigma for part in parts], 1),
            layout=joined_layouts([part.layout for part in parts]),
            valid=_joined_flags([(part.tokens, part.valid) for part in parts]),
            samples=tuple(part.tokens.shape[1] for part in parts),
        )


def joined_layouts(layouts: Sequence[AttentionLayout]) -> AttentionLayout:
    """The layout of sequences side by side: no segment sees one of another sequence.

    Args:
        layouts: of the sequences, in order.

    Returns:
        One layout over all of their segments.

    Examples:
        >>> joined_layouts([AttentionLayout((3, 2)), AttentionLayout((4,))])
        AttentionLayout(lengths=(3, 2, 4), sees=((0, 1), (0, 1), (2,)), keys=None)
    """
    counts = [len(layout.lengths) for layout in layouts]
    rows = []
    for first, count, layout in zip(_firsts(counts), counts, layouts, strict=True):
        own = layout.sees or (tuple(range(count)),) * count
        rows += [tuple(first + i for i in seen) for seen in own]
    lengths = tuple(length for layout in layouts for length in layout.lengths)
    return AttentionLayout(lengths, tuple(rows) if len(layouts) > 1 else layouts[0].sees)


def joined_contexts(contexts: Sequence[Context]) -> Context:
    """Contexts one after the other, each for its own sample.

    Args:
        contexts: tokens (1, L, D) each, with the same streams.

    Returns:
        Tokens (1, sum of L, D), with `samples` saying whose they are.

    Raises:
        ValueError: if their streams differ.
    """
    streams = contexts[0].streams.keys()
    if any(context.streams.keys() != streams for context in contexts):
        raise ValueError("the contexts of samples side by side have different streams")
    return Context(
        torch.cat([context.tokens for context in contexts], 1),
        _joined_flags([(context.tokens, context.valid) for context in contexts]),
        {
            name: joined_contexts([context.streams[name] for context in contexts])
            for name in streams
        },
        tuple(context.tokens.shape[1] for context in contexts),
    )


def _joined_flags(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """(1, N) flags of tokens (1, n, D); None if no token is padding."""
    if all(valid is None for _, valid in parts):
        return None
    flags = [
        tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
        for tokens, valid in parts
    ]
    return torch.cat(flags, 1)


def _firsts(counts: Sequence[int]) -> list[int]:
    return [0, *accumulate(counts)][:-1]
