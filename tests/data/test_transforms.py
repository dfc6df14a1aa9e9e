"""Pixels to model range, and reference images."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from vedit.data.transforms import (
    Letterbox,
    RandomCropRotate,
    RandomShrink,
    ReferenceTransform,
    letterbox,
    rotate,
    to_mask,
    to_model_range,
    to_pixels,
)
from vedit.errors import ConfigError


def test_range_and_back_is_exact_for_every_grey_level() -> None:
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, -1, -1, 3)
    video = to_model_range(frames)
    assert video.shape == (3, 2, 16, 16)
    assert video.min() == -1
    assert video.max() == 1
    assert torch.equal(to_pixels(video), frames)


def test_masks_become_binary() -> None:
    frames = (
        torch.tensor([0, 90, 128, 255], dtype=torch.uint8).view(1, 2, 2, 1).expand(-1, -1, -1, 3)
    )
    assert to_mask(frames)[0].flatten().tolist() == [-1, -1, 1, 1]


def test_letterbox_keeps_aspect_and_centres() -> None:
    image = torch.full((3, 10, 10), 0.5)
    boxed = letterbox(image, (20, 40))
    assert boxed.shape == (3, 20, 40)
    assert torch.all(boxed[:, :, 10:30] == 0.5)
    assert torch.all(boxed[:, :, :10] == -1)
    assert torch.all(boxed[:, :, 30:] == -1)
    assert letterbox(image, (10, 10)) is image


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_rotation_by_quarters_is_that_of_torch(degrees: float, turns: int) -> None:
    image = torch.rand(3, 12, 12) * 2 - 1
    turned = rotate(image, degrees)
    assert torch.allclose(turned, torch.rot90(image, turns, (1, 2)), atol=1e-4)


def test_rotation_keeps_shapes_round_in_wide_images() -> None:
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = ((y**2 + x**2).sqrt() < 8).float().expand(3, -1, -1) * 2 - 1
    assert (rotate(disc, 30) - disc).abs().mean() < 0.05


def test_augmentation_follows_from_the_generator() -> None:
    image = torch.rand(3, 30, 40) * 2 - 1
    augment = RandomCropRotate()
    first = augment(image, (16, 24), Generator().manual_seed(1))
    assert first.shape == (3, 16, 24)
    assert first.abs().max() <= 1
    assert torch.equal(first, augment(image, (16, 24), Generator().manual_seed(1)))
    assert not torch.equal(first, augment(image, (16, 24), Generator().manual_seed(2)))
    assert not augment.stored
    assert Letterbox().stored


def test_no_augmentation_at_its_neutral_values() -> None:
    image = torch.rand(3, 16, 24) * 2 - 1
    same = RandomCropRotate(scale=(1.0, 1.0), degrees=0.0)(image, (16, 24), Generator())
    assert torch.allclose(same, image, atol=1e-5)


def test_letterbox_on_a_colour() -> None:
    image, colour = torch.full((3, 10, 10), 0.5), (1.0, 0.0, -1.0)
    boxed = Letterbox(colour)(image, (10, 30), Generator())
    assert boxed[:, 0, 0].tolist() == list(colour)
    assert torch.all(boxed[:, :, 10:20] == 0.5)
    turned = rotate(image, 45.0, colour)
    assert torch.allclose(turned[:, 0, 0], torch.tensor(colour), atol=1e-6)
    assert torch.allclose(turned[:, 5, 5], image[:, 5, 5], atol=1e-6)


def test_a_shrunk_reference_lies_in_the_middle_of_its_ground() -> None:
    image = torch.zeros(3, 20, 40)
    shrink = RandomShrink(scale=(0.5, 0.5))
    small = shrink(image, (40, 80), Generator())
    assert torch.all(small[:, 10:30, 20:60] == 0)
    small[:, 10:30, 20:60] = 1.0
    assert torch.all(small == 1)


def test_the_share_is_uniform_and_follows_from_the_generator() -> None:
    image, generator = torch.zeros(3, 100, 100), Generator().manual_seed(0)
    shrink = RandomShrink()
    sides = [int((shrink(image, (100, 100), generator)[0, 50] == 0).sum()) for _ in range(100)]
    assert 70 <= min(sides) < 74
    assert 96 < max(sides) <= 100
    assert 82 < sum(sides) / 100 < 88
    twice = [shrink(image, (64, 64), Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize(
    "augment", [RandomShrink(), RandomShrink(ground=-1.0), RandomCropRotate(ground=1.0)]
)
def test_without_chance_the_ground_stays(augment: ReferenceTransform) -> None:
    still = augment.still()
    assert isinstance(still, Letterbox)
    assert still.ground == augment.ground
    assert still.still() is still
    assert not augment.stored
    assert still.stored == (still.ground == -1)  # what the cache holds lies on black


def test_several_references_of_any_size_become_one_stack() -> None:
    images = [torch.rand(3, 20, 30), torch.rand(3, 50, 10), torch.rand(3, 16, 16)]
    stacked = Letterbox().stack(images, (16, 24), Generator())
    assert stacked.shape == (3, 3, 16, 24)
    assert torch.equal(stacked[1], letterbox(images[1], (16, 24)))
    same = RandomShrink().stack([images[0]] * 2, (16, 24), Generator().manual_seed(0))
    assert not torch.equal(same[0], same[1])


@pytest.mark.parametrize("ground", [255, (0.0, 1.0, 2.0), (1.0, 1.0)])
def test_grounds_outside_the_range_are_refused(ground: float) -> None:
    with pytest.raises(ConfigError, match="ground: expected one value or three"):
        Letterbox(ground)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.9, 0.7), (0.5, 1.2)])
def test_impossible_shares_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="scale: expected two shares"):
        RandomShrink(scale)
    with pytest.raises(ConfigError, match="scale: expected two shares"):
        RandomCropRotate(scale)
