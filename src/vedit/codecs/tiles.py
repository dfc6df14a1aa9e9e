"""Tiles: large frames encoded and decoded piece by piece, with less memory.

Tiles lie evenly, on whole latents, and overlap. Where they do, one is faded into the next: what a
tile knows least about is its border, since it does not see what lies beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from vedit.errors import ConfigError

WHERE = "model.codec.init_args"


@dataclass(frozen=True)
class Tiles:
    """Square tiles.

    Attributes:
        size: pixels along a side.
        overlap: pixels that neighbours share at least.
        factor: pixels to a latent, along height and width.

    Raises:
        ConfigError: if sizes are no multiples of the factor, or the overlap is not between one
            latent and half a tile.
    """

    size: int
    overlap: int
    factor: int

    def __post_init__(self) -> None:
        for name, value in (("tile_size", self.size), ("tile_overlap", self.overlap)):
            if value < 1 or value % self.factor:
                near = max(1, round(value / self.factor)) * self.factor
                raise ConfigError(
                    f"{WHERE}.{name}: got {value}, expected a multiple of the {self.factor} pixels "
                    f"of a latent; nearest: {near}"
                )
        if 2 * self.overlap > self.size:
            raise ConfigError(
                f"{WHERE}.tile_overlap: got {self.overlap}, expected at most half of tile_size, "
                f"which is {self.size}"
            )

    def encode(self, encode: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
        """Encode (B, 3, F, H, W) tile by tile; a video that is no larger than a tile, at once."""
        return self._by_tiles(encode, video, self.factor, 1)

    def decode(self, decode: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
        """Decode (B, C, t, h, w) tile by tile; latents of no more than a tile, at once."""
        return self._by_tiles(decode, latents, 1, self.factor)

    def _by_tiles(
        self, process: Callable[[Tensor], Tensor], x: Tensor, given: int, made: int
    ) -> Tensor:
        """Process tiles and add them up, each faded towards its neighbours.

        Args:
            process: of one tile.
            x: whole.
            given: numbers of `x` along a side of a latent.
            made: the same of the result.
        """
        height, width = (side // given for side in x.shape[-2:])
        size, overlap = self.size // self.factor, self.overlap // self.factor
        rows, columns = spans(height, size, overlap), spans(width, size, overlap)
        if len(rows) == len(columns) == 1:
            return process(x)
        found: Tensor | None = None
        down, across = (list(zip(s, fades(s, made), strict=True)) for s in (rows, columns))
        for (row, fade), (column, fade_across) in product(down, across):
            tile = process(x[..., _scaled(row, given), _scaled(column, given)])
            if found is None:
                found = tile.new_zeros(*tile.shape[:-2], made * height, made * width)
            weight = (fade[:, None] * fade_across).to(tile)
            found[..., _scaled(row, made), _scaled(column, made)] += weight * tile
        assert found is not None
        return found


def spans(length: int, size: int, overlap: int) -> list[slice]:
    """The fewest spans that cover a length and overlap at least so much, evenly spread.

    Args:
        length: to cover.
        size: of a span.
        overlap: of neighbours, at most half of the size.

    Returns:
        From first to last; one span of all if the length is no larger than the size.

    Examples:
        >>> spans(10, 6, 2)
        [slice(0, 6, None), slice(4, 10, None)]
        >>> spans(5, 6, 2)
        [slice(0, 5, None)]
    """
    if length <= size:
        return [slice(0, length)]
    steps = -(-(length - size) // (size - overlap))
    starts = [i * (length - size) // steps for i in range(steps + 1)]
    return [slice(start, start + size) for start in starts]


def fades(spans: list[slice], scale: int = 1) -> list[Tensor]:
    """Weights of spans that add up to one everywhere, linear where two overlap.

    Args:
        spans: from first to last.
        scale: numbers for each place.

    Returns:
        (scale * length,) for each span.
    """
    weights = [torch.ones(scale * (span.stop - span.start)) for span in spans]
    for i, (one, other) in enumerate(pairwise(spans)):
        shared = scale * (one.stop - other.start)
        rising = (torch.arange(shared) + 0.5) / shared
        weights[i][-shared:] *= 1 - rising
        weights[i + 1][:shared] *= rising
    total = torch.zeros(scale * spans[-1].stop)  # one, but where three overlap
    for span, weight in zip(spans, weights, strict=True):
        total[_scaled(span, scale)] += weight
    return [w / total[_scaled(span, scale)] for span, w in zip(spans, weights, strict=True)]


def _scaled(span: slice, scale: int) -> slice:
    return slice(scale * span.start, scale * span.stop)
