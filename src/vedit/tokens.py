"""The records that flow through an editor, and the package's one shape legend.

Letters used in every docstring of the package:

    B  batch            C  latent channels     t h w  latent grid (time, rows, columns)
    N  tokens           D  backbone width      L      context tokens
    G  segments         F  frames              H W    pixels
    R  reference images

A sequence is built by three verbs, *add to* tokens, *append* tokens, *attend to* a context, and is
then packed once into the flat tensors that transformer blocks read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Grid: TypeAlias = tuple[int, int, int]
"""A token grid (time, rows, columns)."""

Embed: TypeAlias = Callable[[Tensor], tuple[Tensor, Grid]]
"""Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""


@dataclass(frozen=True)
class Context:
    """Tokens that the backbone attends to.

    Attributes:
        tokens: (B, L, D), already at the width of the backbone.
        valid: (B, L) bool, False where a token is padding that nobody may attend to; None if all
            tokens count.
        streams: further contexts by name, such as "image", each for a key and value branch of its
            own in cross-attention.
        samples: tokens of each sample where several are side by side (`vedit.packing`); None if
            each row of the batch is one.
    """

    tokens: Tensor
    valid: Tensor | None = None
    streams: Mapping[str, "Context"] = field(default_factory=dict)
    samples: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Segment:
    """A run of tokens that share one noise level per sample.

    Attributes:
        name: the name by which injections and `sees` refer to it.
        tokens: (B, N, D).
        positions: (N, 3) int64, RoPE indices (time, row, column); may be negative.
        sigma: (B,) noise level in [0, 1]; 0 is clean.
        grid: the token grid, None for tokens without one.
        sees: names of the segments its queries may attend to; None means all.
        valid: (B, N) bool, False where a token is padding that nobody may attend to; None if all
            tokens count.
        start: the time index of the first row of the grid, known without asking the device that
            holds `positions`; None if only they tell.
    """

    name: str
    tokens: Tensor
    positions: Tensor
    sigma: Tensor
    grid: Grid | None = None
    sees: tuple[str, ...] | None = None
    valid: Tensor | None = None
    start: int | None = None

    def times(self) -> tuple[int, int]:
        """The first and the last time index of its tokens."""
        if self.start is not None and self.grid is not None:
            return self.start, self.start + self.grid[0] - 1
        return int(self.positions[:, 0].min()), int(self.positions[:, 0].max())


@dataclass(frozen=True)
class AttentionLayout:
    """Who may attend to whom, segment by segment.

    Attributes:
        lengths: tokens per segment, in packed order.
        sees: for each segment the indices of the segments its queries see; None if every segment
            sees every other, so that attention is dense.
        keys: tokens per segment that can be seen, where these are others than those that see, as in
            cross-attention; None if they are the same.
    """

    lengths: tuple[int, ...]
    sees: tuple[tuple[int, ...], ...] | None = None
    keys: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Packed:
    """What transformer blocks read.

    Attributes:
        tokens: (B, N, D), the segments one after the other.
        positions: (N, 3) int64.
        sigma: (B, G), one noise level per sample and segment.
        layout: lengths and visibility of the segments.
        valid: (B, N) bool, False where a token is padding; None if no segment has any.
        samples: tokens of each sample where several are side by side, None if each row of the batch
            is one.
    """

    tokens: Tensor
    positions: Tensor
    sigma: Tensor
    layout: AttentionLayout
    valid: Tensor | None = None
    samples: tuple[int, ...] | None = None


class Target(NamedTuple):
    """The segment whose velocity is predicted.

    Attributes:
        place: of the segment, in packed order.
        grid: its token grid.
    """

    place: int
    grid: Grid


def grid_positions(grid: Grid, device: torch.device | None = None, time_offset: int = 0) -> Tensor:
    """RoPE positions of a token grid, in the order in which patches are flattened.

    Args:
        grid: (time, rows, columns).
        device: where the result lives.
        time_offset: added to the time index; negative puts the grid before the video.

    Returns:
        (N, 3) int64 with N = time * rows * columns.
    """
    axes = [torch.arange(n, device=device) for n in grid]
    axes[0] = axes[0] + time_offset
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


@dataclass(frozen=True)
class TokenSequence:
    """Segments in packed order, the embedding of the target, and an optional context.

    Every method returns a new sequence; nothing upstream is changed.
    """

    segments: tuple[Segment, ...]
    embed: Embed = field(repr=False)
    context: Context | None = None

    @classmethod
    def of_target(cls, x_t: Tensor, sigma: Tensor, embed: Embed) -> "TokenSequence":
        """Start a sequence with the noisy target.

        Args:
            x_t: (B, C, t, h, w) noisy latents.
            sigma: (B,) noise level in [0, 1].
            embed: the backbone's patch embedding.

        Returns:
            A sequence of one segment named "target", at time positions 0 .. t-1.
        """
        tokens, grid = embed(x_t)
        positions = grid_positions(grid, tokens.device)
        return cls((Segment("target", tokens, positions, sigma, grid, start=0),), embed)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in packed order."""
        return tuple(segment.name for segment in self.segments)

    def __getitem__(self, name: str) -> Segment:
        """The segment of that name.

        Args:
            name: a segment.

        Returns:
            The segment.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise KeyError(f"no segment '{name}' in this sequence; there are: {', '.join(self.names)}")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The segment named "target".

        Raises:
            ValueError: if it has no grid.
        """
        grid = self["target"].grid
        if grid is None:
            raise ValueError("segment 'target' has no grid: it cannot be turned into latents")
        return (Target(self.names.index("target"), grid),)

    def append(self, segment: Segment) -> "TokenSequence":
        """The sequence with one more segment at the end.

        Args:
            segment: what to append; its name must be new.

        Returns:
            The longer sequence.

        Raises:
            ValueError: if a segment of that name is there already.
        """
        if segment.name in self.names:
            raise ValueError(f"segment '{segment.name}' is in the sequence already")
        return replace(self, segments=(*self.segments, segment))

    def add(self, name: str, tokens: Tensor) -> "TokenSequence":
        """The sequence with `tokens` added to those of one segment.

        Args:
            name: a segment.
            tokens: (B, N, D), as many as the segment has.

        Returns:
            The changed sequence.

        Raises:
            KeyError: if there is no such segment.
            ValueError: if the number of tokens differs.
        """
        segment = self[name]
        if tokens.shape[1] != segment.tokens.shape[1]:
            raise ValueError(
                f"cannot add {tokens.shape[1]} tokens to segment '{name}' of "
                f"{segment.tokens.shape[1]}: the two grids must be the same"
            )
        changed = replace(segment, tokens=segment.tokens + tokens)
        return replace(
            self, segments=tuple(changed if s.name == name else s for s in self.segments)
        )

    def with_context(self, context: Context) -> "TokenSequence":
        """The sequence with `context` for the blocks to attend to."""
        return replace(self, context=context)

    def pack(self) -> Packed:
        """Flatten the segments into the tensors that the blocks read.

        Returns:
            Tokens, positions, noise levels and the attention layout.

        Raises:
            KeyError: if a segment's `sees` names a segment that is not there.
        """
        return Packed(
            tokens=torch.cat([s.tokens for s in self.segments], dim=1),
            positions=torch.cat([s.positions for s in self.segments]),
            sigma=torch.stack([s.sigma for s in self.segments], dim=1),
            layout=self.layout,
            valid=self._validity(),
        )

    @property
    def layout(self) -> AttentionLayout:
        """Lengths and visibility of the segments."""
        lengths = tuple(segment.tokens.shape[1] for segment in self.segments)
        return AttentionLayout(lengths, self._visibility())

    def _validity(self) -> Tensor | None:
        if all(s.valid is None for s in self.segments):
            return None
        flags = [
            s.tokens.new_ones(s.tokens.shape[:2], dtype=torch.bool) if s.valid is None else s.valid
            for s in self.segments
        ]
        return torch.cat(flags, dim=1)

    def _visibility(self) -> tuple[tuple[int, ...], ...] | None:
        if all(s.sees is None for s in self.segments):
            return None
        index = {name: i for i, name in enumerate(self.names)}
        everyone = tuple(range(len(self.segments)))
        rows = []
        for segment in self.segments:
            if segment.sees is None:
                rows.append(everyone)
                continue
            for name in segment.sees:
                if name not in index:
                    raise KeyError(
                        f"segment '{segment.name}' is to see '{name}', which is not in the "
                        f"sequence; there are: {', '.join(self.names)}"
                    )
            rows.append(tuple(sorted(index[name] for name in segment.sees)))
        return tuple(rows)
