"""Frames to the patches that a Qwen-VL vision tower reads.

Source: Qwen2.5-VL (arXiv 2502.13923, section 2.1.1) and the image and video processors published
with it, whose numbers these pure functions give: sample frames, snap the size to whole merged
patches, resize (bicubic, antialiased), normalise, group frames two by two, flatten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from vedit.errors import ConfigError, DataError
from vedit.tokens import Grid

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images (arXiv 2103.00020), which Qwen2-VL and Qwen2.5-VL took over."""

MOST_ELONGATED = 200  # ratio of the sides beyond which Qwen-VL refuses a picture


@dataclass(frozen=True)
class PixelBudget:
    """How large a picture is shown to the tower.

    Attributes:
        min_pixels: a smaller picture is enlarged.
        max_pixels: a larger one is shrunk.
        multiple: both sides become multiples of this; null means patch size times merge size.
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 16384
    multiple: int | None = None


@dataclass(frozen=True)
class Views:
    """What of videos and images the tower is shown.

    The defaults are Kiwi-Edit's at inference, whose video frames are snapped to multiples of 56.

    Attributes:
        max_frames: a longer video is sampled evenly.
        fps: frame rate that the sampled frames are taken to have, whatever theirs is.
        whole_seconds: cut the seconds between two groups of frames to an integer before they
            become positions, as the code did that trained the published weights.
        video: size of the frames of a video.
        image: size of a source that is one frame.
        reference: size of a reference image.
    """

    max_frames: int = 16
    fps: float = 2.0
    whole_seconds: bool = True
    video: PixelBudget = field(
        default_factory=lambda: PixelBudget(128 * 28 * 28, 512 * 512, multiple=56)
    )
    image: PixelBudget = field(default_factory=PixelBudget)
    reference: PixelBudget = field(default_factory=lambda: PixelBudget(max_pixels=28 * 28 * 768))


@dataclass(frozen=True)
class PatchGeometry:
    """How a vision tower cuts its pictures.

    Attributes:
        patch: side of a patch in pixels.
        merge: side, in patches, of the square that becomes one token.
        frames: frames that make one group.
        mean: of each colour, subtracted from pixels in [0, 1].
        std: of each colour, which the difference is divided by.
    """

    patch: int = 14
    merge: int = 2
    frames: int = 2
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


def sampled_frames(count: int, most: int) -> list[int]:
    """Indices of at most `most` frames, evenly spread, first and last included.

    Args:
        count: frames there are.
        most: frames to take.

    Returns:
        Rising indices.

    Examples:
        >>> sampled_frames(9, 4)
        [0, 3, 5, 8]
        >>> sampled_frames(3, 16)
        [0, 1, 2]
    """
    if count <= most:
        return list(range(count))
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long().tolist()


def snapped_size(height: int, width: int, budget: PixelBudget, multiple: int) -> tuple[int, int]:
    """The size in which a picture is shown: whole multiples, within the budget, aspect kept.

    Args:
        height: in pixels.
        width: in pixels.
        budget: the fewest and most pixels; its own `multiple` wins over the argument.
        multiple: patch size times merge size.

    Returns:
        Height and width.

    Raises:
        DataError: if one side is more than 200 times the other.
        ConfigError: if the budget's multiple is not one of `multiple`, or it has no room.

    Examples:
        >>> snapped_size(704, 1280, PixelBudget(100352, 262144, 56), 28)
        (336, 672)
    """
    step = budget.multiple or multiple
    if step % multiple or budget.max_pixels < step**2:
        raise ConfigError(
            f"model.context.init_args.views: multiple {step} and max_pixels {budget.max_pixels}, "
            f"expected a multiple of {multiple} and at least its square"
        )
    if max(height, width) > MOST_ELONGATED * min(height, width):
        raise DataError(f"a picture of {height}x{width}: one side is over 200 times the other")
    high, wide = round(height / step) * step, round(width / step) * step
    if high * wide > budget.max_pixels:
        ratio = math.sqrt(height * width / budget.max_pixels)
        high = max(step, math.floor(height / ratio / step) * step)
        wide = max(step, math.floor(width / ratio / step) * step)
    elif high * wide < budget.min_pixels:
        ratio = math.sqrt(budget.min_pixels / (height * width))
        high = math.ceil(height * ratio / step) * step
        wide = math.ceil(width * ratio / step) * step
    return high, wide


def resized(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames of another size, in whole grey levels as image files have them.

    Columns are resampled before rows, and levels rounded in between: that is how imaging libraries
    resize 8-bit pictures, and it is the same on every device.

    Args:
        video: (B, 3, F, H, W) in [-1, 1].
        size: height and width.

    Returns:
        (B, 3, F, *size) in [0, 255], whole numbers.
    """
    levels = ((video.float() + 1) * 127.5).round().clamp(0, 255)
    if tuple(levels.shape[-2:]) == size:
        return levels
    frames = levels.transpose(1, 2).flatten(0, 1)
    for step in ((frames.shape[-2], size[1]), size):
        frames = functional.interpolate(frames, step, mode="bicubic", antialias=True)
        frames = frames.round().clamp(0, 255)
    return frames.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def patchified(levels: Tensor, geometry: PatchGeometry) -> tuple[Tensor, Grid]:
    """Normalise frames and cut them into patches, merged squares one after the other.

    Args:
        levels: (B, 3, F, H, W) in [0, 255]; the sides are multiples of patch times merge.
        geometry: how to cut; a last group that is not full repeats the last frame.

    Returns:
        Patches (B, P, 3 * frames * patch * patch), and their grid (groups, rows, columns).
    """
    mean, std = (levels.new_tensor(c).view(3, 1, 1, 1) for c in (geometry.mean, geometry.std))
    pixels = (levels / 255 - mean) / std
    missing = -pixels.shape[2] % geometry.frames
    if missing:
        pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    patch, merge = geometry.patch, geometry.merge
    batch, _, frames, height, width = pixels.shape
    grid = (frames // geometry.frames, height // patch, width // patch)
    cut = pixels.reshape(
        *(batch, 3, grid[0], geometry.frames),
        *(grid[1] // merge, merge, patch),
        *(grid[2] // merge, merge, patch),
    )
    # to (batch, groups, rows, columns, row and column in the square, colour, frame, y, x)
    ordered = cut.permute(0, 2, 4, 7, 5, 8, 1, 3, 6, 9)
    return ordered.reshape(batch, math.prod(grid), -1), grid


def patches_of(
    video: Tensor, budget: PixelBudget, geometry: PatchGeometry, max_frames: int
) -> tuple[Tensor, Grid]:
    """What the vision tower reads of B videos, or of B images as videos of one frame.

    Args:
        video: (B, 3, F, H, W) in [-1, 1].
        budget: how large frames are shown.
        geometry: how the tower cuts them.
        max_frames: a longer video is sampled.

    Returns:
        Patches (B, P, E) and their grid (groups, rows, columns), in patches.

    Raises:
        DataError: if the frames are too elongated.
        ConfigError: if the budget does not suit the tower.
    """
    chosen = video[:, :, sampled_frames(video.shape[2], max_frames)]
    multiple = geometry.patch * geometry.merge
    size = snapped_size(video.shape[-2], video.shape[-1], budget, multiple)
    return patchified(resized(chosen, size), geometry)
