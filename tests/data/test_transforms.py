"""Pixels to model range, and reference images."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from vedit.data.transforms import (
    Letterbox,
    RandomCropRotate,
    letterbox,
    rotate,
    to_mask,
    to_model_range,
    to_pixels,
)


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
    assert augment.random
    assert not Letterbox().random


def test_no_augmentation_at_its_neutral_values() -> None:
    image = torch.rand(3, 16, 24) * 2 - 1
    same = RandomCropRotate(scale=(1.0, 1.0), degrees=0.0)(image, (16, 24), Generator())
    assert torch.allclose(same, image, atol=1e-5)
