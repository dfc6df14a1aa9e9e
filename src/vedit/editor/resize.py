"""Between the size of a video and a size that the model was trained for."""

from __future__ import annotations

import math
from itertools import product

import torch.nn.functional as F
from torch import Tensor


def working_size(
    height: int, width: int, trained: tuple[int, int], multiple: tuple[int, int]
) -> tuple[int, int]:
    """The size to edit at: about the trained area, in about the video's aspect ratio.

    Args:
        height: Of the video.
        width: Of the video.
        trained: Height and width of the training clips.
        multiple: What height and width must be multiples of.

    Returns:
        Height and width; the trained ones for a video of the trained aspect ratio.

    Examples:
        >>> working_size(1080, 1920, trained=(64, 112), multiple=(16, 16))
        (64, 112)
        >>> working_size(1920, 1080, trained=(64, 112), multiple=(16, 16))
        (112, 64)
        >>> working_size(50, 50, trained=(64, 112), multiple=(16, 16))
        (80, 80)
    """
    area = trained[0] * trained[1]
    tall = math.sqrt(area * height / width)
    candidates = product(_around(tall, multiple[0]), _around(area / tall, multiple[1]))

    def misfit(size: tuple[int, int]) -> float:
        stretch = math.log(size[0] / size[1]) - math.log(height / width)
        growth = math.log(size[0] * size[1] / area)
        return abs(stretch) + abs(growth)

    return min(candidates, key=misfit)


def resized(frame: Tensor, height: int, width: int) -> Tensor:
    """Scale one frame (C, H, W) in [-1, 1] to (C, height, width), without aliasing."""
    if frame.shape[-2:] == (height, width):
        return frame
    scaled = F.interpolate(
        frame[None], (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return scaled[0].clamp(-1, 1)


def _around(ideal: float, multiple: int) -> set[int]:
    """The multiples next to an ideal length."""
    below = max(1, math.floor(ideal / multiple))
    return {below * multiple, max(1, math.ceil(ideal / multiple)) * multiple}
