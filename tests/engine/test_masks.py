"""Masks are binary, as large as asked, and move where they shall."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from vedit.engine.masks import (
    KINDS,
    box,
    ellipse,
    moving_blob,
    nearest_pixels,
    pixel_centres,
    sample_mask,
    starting_at,
)
from vedit.errors import ConfigError


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def centroids(mask: Tensor) -> Tensor:
    """Mean row and column of every frame's region, (F, 2), in pixels."""
    rows = torch.arange(mask.shape[2]).view(1, 1, -1, 1)
    columns = torch.arange(mask.shape[3]).view(1, 1, 1, -1)
    total = mask.sum((1, 2, 3))
    return torch.stack([(mask * place).sum((1, 2, 3)) / total for place in (rows, columns)], 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    frames=st.integers(1, 5),
    height=st.integers(8, 48),
    width=st.integers(8, 48),
    least=st.floats(0.05, 0.7),
    spread=st.floats(0.1, 0.3),
)
def test_area_is_within_bounds_in_every_frame(
    seed: int, kind: str, frames: int, height: int, width: int, least: float, spread: float
) -> None:
    mask = sample_mask(seeded(seed), frames, height, width, (kind,), (least, least + spread))
    assert mask.shape == (frames, 1, height, width)
    assert mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()
    shares = mask.double().mean((1, 2, 3))
    assert (shares >= least - 1e-9).all()
    assert (shares <= least + spread + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_generators_give_equal_masks(kind: str) -> None:
    first, second = (sample_mask(seeded(3), 5, 64, 112, (kind,)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, sample_mask(seeded(4), 5, 64, 112, (kind,)))


@pytest.mark.parametrize("seed", range(8))
def test_blobs_move_and_the_others_rest(seed: int) -> None:
    blob = sample_mask(seeded(seed), 9, 64, 112, ("blob",), (0.1, 0.3))
    path = centroids(blob)
    assert torch.linalg.vector_norm(path[-1] - path[0]) > 64 / 8
    assert len(set(blob.sum((1, 2, 3)).tolist())) == 1
    for kind in ("box", "ellipse"):
        still = sample_mask(seeded(seed), 9, 64, 112, (kind,))
        assert torch.equal(still, still[:1].expand_as(still))


def test_all_kinds_are_drawn() -> None:
    generator = seeded(0)
    drawn = [sample_mask(generator, 3, 32, 56) for _ in range(24)]
    moving = sum(not torch.equal(mask[0], mask[-1]) for mask in drawn)
    filled = sum(bool((mask[0] == _bounding_box(mask[0, 0])).all()) for mask in drawn)
    assert 2 <= moving <= 16
    assert 2 <= filled <= 16
    assert moving + filled < 24


def _bounding_box(plane: Tensor) -> Tensor:
    return plane.amax(1, keepdim=True) * plane.amax(0, keepdim=True)


def test_box_is_where_it_was_put() -> None:
    mask = box(2, 6, 8, top=1, left=3, tall=2, wide=4)
    assert mask.sum().item() == 2 * 8
    assert torch.all(mask[:, 0, 1:3, 3:7] == 1)


def test_ellipse_has_its_aspect() -> None:
    mask = ellipse(1, 60, 100, centre=(0.5, 0.5 * 100 / 60), aspect=2.0, count=1000)[0, 0]
    tall, wide = int(mask.amax(1).sum()), int(mask.amax(0).sum())
    # The area of an ellipse is pi/4 times that of its bounding box.
    assert mask.sum() == 1000
    assert wide / tall == pytest.approx(2, rel=0.1)
    assert math.pi / 4 * wide * tall == pytest.approx(1000, rel=0.1)


def test_blob_without_waves_is_a_disc_that_follows_its_path() -> None:
    centres = torch.tensor([[0.503, 0.407], [0.503, 0.807]])
    mask = moving_blob(50, 60, centres, torch.zeros(1), torch.zeros(2, 1), count=317)
    assert torch.allclose(centroids(mask), centres * 50 - 0.5, atol=0.5)
    assert torch.equal(mask[0, 0, :, :40], mask[1, 0, :, 20:])


def test_nearest_pixels_breaks_ties_in_order() -> None:
    mask = nearest_pixels(torch.ones(1, 2, 3), 4)
    assert mask.flatten().tolist() == [1, 1, 1, 1, 0, 0]


def test_pixel_centres_count_in_heights() -> None:
    y, x = pixel_centres(2, 4)
    assert y.flatten().tolist() == [0.25, 0.75]
    assert x.flatten().tolist() == [0.25, 0.75, 1.25, 1.75]


def test_starting_at_sets_in_late_and_keeps_its_input() -> None:
    mask = torch.ones(5, 1, 2, 2)
    late = starting_at(mask, 3)
    assert late[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert mask.all()
    assert torch.equal(starting_at(mask, 0), mask)


@pytest.mark.parametrize("frame", [-1, 5])
def test_starting_at_needs_a_frame_of_the_clip(frame: int) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 4"):
        starting_at(torch.ones(5, 1, 2, 2), frame)


@pytest.mark.parametrize(
    ("kinds", "area", "words"),
    [
        (("blb",), (0.1, 0.5), "Did you mean 'blob'"),
        ((), (0.1, 0.5), "empty"),
        (("box",), (0.5, 0.1), "smallest <= largest"),
        (("box",), (0.0, 0.5), "0 < smallest"),
        (("box",), (0.5, 1.5), "<= 1"),
        (("blob",), (0.501, 0.502), "whole number"),
        (("box",), (59 / 64, 60 / 64 - 0.001), "no box in 8 x 8"),
    ],
)
def test_impossible_wishes_are_named(
    kinds: tuple[str, ...], area: tuple[float, float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        sample_mask(seeded(0), 2, 8, 8, kinds, area)
