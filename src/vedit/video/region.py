"""Masks from files: where an edit shows, frame by frame, at the size of the video it limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vedit.video.image import is_image, read_image
from vedit.video.read import iter_frames


def iter_region(mask: str | Path | Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Stream a region for every frame of a video, without end.

    A still image holds for the whole video, and so does a mask of one frame. Frames after the
    end of a mask video lie outside the region.

    Args:
        mask: Video or image file, or uint8 frames (F, H, W, 3) or (H, W, 3); white (128 and
            above) is inside.
        height: Rows of each region.
        width: Columns of each region.

    Yields:
        (H, W) float32 of zeros and ones.

    Raises:
        DataError: The file is missing, or neither a video nor an image.
    """
    count = 0
    region = torch.zeros(height, width)
    for frame in _frames(mask):
        region = threshold(frame, height, width)
        yield region
        count += 1
    if count > 1:
        region = torch.zeros(height, width)
    while True:
        yield region


def threshold(frame: Tensor, height: int, width: int) -> Tensor:
    """Scale a frame, uint8 (H, W, 3), and keep what is at least half white, as (H, W) 0 or 1."""
    grey = frame.float().mean(-1)[None, None]
    if grey.shape[-2:] != (height, width):
        grey = F.interpolate(grey, (height, width), mode="bilinear", antialias=True)
    return (grey[0, 0] >= 127.5).float()


def _frames(mask: str | Path | Tensor) -> Iterable[Tensor]:
    if isinstance(mask, Tensor):
        return [mask] if mask.ndim == 3 else mask
    return [read_image(mask)] if is_image(mask) else iter_frames(mask)
