"""Tiles cover a frame, overlap, and fade into each other without a trace of their own."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from vedit.codecs.tiles import Tiles, fades, spans

sizes = st.integers(2, 12).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, s // 2)))


@given(st.integers(1, 60), sizes, st.integers(1, 4))
def test_spans_cover_a_length_and_their_weights_add_up_to_one(
    length: int, tile: tuple[int, int], scale: int
) -> None:
    size, overlap = tile
    found = spans(length, size, overlap)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert {span.stop - span.start for span in found} == {min(size, length)}
    for one, other in zip(found[:-1], found[1:], strict=True):
        assert one.start < other.start
        assert one.stop - other.start >= overlap
    # One fewer would not do.
    assert len(found) == 1 or size + (len(found) - 2) * (size - overlap) < length
    total = torch.zeros(scale * length)
    for span, weight in zip(found, fades(found, scale), strict=True):
        assert (weight > 0).all()
        total[scale * span.start : scale * span.stop] += weight
    torch.testing.assert_close(total, torch.ones(scale * length))


def test_what_looks_at_one_latent_alone_is_the_same_in_tiles() -> None:
    sides: list[int] = []

    def encode(video: Tensor) -> Tensor:
        sides.extend(video.shape[-2:])
        return avg_pool3d(video, (1, 8, 8))

    def decode(latents: Tensor) -> Tensor:
        return interpolate(latents, scale_factor=(1, 8, 8))

    tiles = Tiles(32, 8, factor=8)
    video = torch.rand(2, 3, 2, 56, 88, generator=torch.Generator().manual_seed(0))
    latents = avg_pool3d(video, (1, 8, 8))
    torch.testing.assert_close(tiles.encode(encode, video), latents)
    assert max(sides) == 32
    torch.testing.assert_close(tiles.decode(decode, latents), decode(latents))
