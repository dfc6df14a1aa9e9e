"""Frames to patches, as the published pipeline and transformers cut them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vedit.context.frames import (
    PatchGeometry,
    PixelBudget,
    patches_of,
    patchified,
    sampled_frames,
    snapped_size,
)
from vedit.errors import ConfigError, DataError

QWEN_VIDEO = PixelBudget(128 * 784, 768 * 784, multiple=56)
CAPPED = PixelBudget(128 * 784, 512 * 512, multiple=56)
REFERENCE = PixelBudget(max_pixels=768 * 784)


@pytest.mark.parametrize(
    ("size", "budget", "expected"),
    [
        ((704, 1280), QWEN_VIDEO, (560, 1008)),
        ((448, 800), QWEN_VIDEO, (448, 784)),
        ((576, 576), QWEN_VIDEO, (560, 560)),
        ((704, 1280), CAPPED, (336, 672)),
        ((448, 800), CAPPED, (336, 672)),
        ((576, 576), CAPPED, (504, 504)),
        ((1024, 1024), PixelBudget(), (1036, 1036)),
        ((1024, 1024), REFERENCE, (756, 756)),
    ],
)
def test_sizes_are_those_of_the_published_pipeline(
    size: tuple[int, int], budget: PixelBudget, expected: tuple[int, int]
) -> None:
    assert snapped_size(*size, budget, 28) == expected


@pytest.mark.parametrize("size", [(64, 112), (30, 500), (1, 100), (999, 333), (28, 28)])
def test_sizes_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    budget = PixelBudget(3136, 50000)
    expected = smart_resize(*size, factor=28, min_pixels=3136, max_pixels=50000)
    assert snapped_size(*size, budget, 28) == expected


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="1x300: one side is over 200 times the other"):
        snapped_size(1, 300, PixelBudget(), 28)
    with pytest.raises(ConfigError, match="multiple 56 .* expected a multiple of 32"):
        snapped_size(64, 64, QWEN_VIDEO, 32)
    with pytest.raises(ConfigError, match="max_pixels 100"):
        snapped_size(64, 64, PixelBudget(1, 100), 28)


def test_frames_are_sampled_evenly() -> None:
    assert sampled_frames(81, 16) == [0, 5, 11, 16, 21, 27, 32, 37, 43, 48, 53, 59, 64, 69, 75, 80]
    assert sampled_frames(16, 16) == list(range(16))
    assert sampled_frames(1, 16) == [0]


def image_processor(**arguments: Any) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(**arguments)


@pytest.mark.parametrize(("size", "exact"), [((56, 112), True), ((90, 70), False)])
def test_patches_are_those_of_transformers(size: tuple[int, int], exact: bool) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = image_processor(min_pixels=3136, max_pixels=12544)(levels, return_tensors="pt")
    image = torch.from_numpy(levels).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    patches, grid = patches_of(image, PixelBudget(3136, 12544), PatchGeometry(), 1)
    assert grid == tuple(expected["image_grid_thw"][0].tolist())
    difference = (patches[0] - expected["pixel_values"]).abs() * 0.27 * 255  # in grey levels
    assert difference.max() < (0.01 if exact else 1.1)
    assert difference.mean() < (0.01 if exact else 0.05)


def test_a_video_is_grouped_frame_by_frame() -> None:
    levels = torch.randint(0, 256, (2, 3, 3, 56, 84)).float()
    patches, grid = patchified(levels, PatchGeometry())
    assert grid == (2, 4, 6)
    split = patches.view(2, 2, 24, 3, 2, 14, 14)
    for group, frames in enumerate([(0, 1), (2, 2)]):  # the last frame is repeated
        for place, frame in enumerate(frames):
            alone, _ = patchified(levels[:, :, frame : frame + 1], PatchGeometry())
            expected = alone.view(2, 24, 3, 2, 14, 14)[:, :, :, 0]
            torch.testing.assert_close(split[:, group, :, :, place], expected)


def test_patches_are_those_of_transformers_video_processor() -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    from transformers import Qwen2VLVideoProcessor

    video = torch.randint(0, 256, (5, 3, 64, 112), dtype=torch.uint8)
    processor = Qwen2VLVideoProcessor(size={"shortest_edge": 3136, "longest_edge": 12544})
    expected = processor(videos=[video], return_tensors="pt", cap_pixels_per_frame=False)
    ours = video.transpose(0, 1)[None] / 127.5 - 1
    patches, grid = patches_of(ours, PixelBudget(3136, 12544), PatchGeometry(), 16)
    assert grid == tuple(expected["video_grid_thw"][0].tolist())
    assert (patches[0] - expected["pixel_values_videos"]).abs().mean() * 0.27 * 255 < 0.05
