"""What an editor is given: a video from a file or an array, and reference images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.video import iter_frames, probe
from vedit.video.image import is_image, read_image
from vedit.video.timing import frame_times

Pixels: TypeAlias = str | Path | np.ndarray | Tensor
"""A file, or uint8 pixels: a video (F, H, W, 3) or an image (H, W, 3)."""

_ARRAY_FPS = Fraction(24)


@dataclass(frozen=True)
class Clip:
    """A video that can be read again and again.

    Attributes:
        frames: Starts a stream of its frames, uint8 (H, W, 3).
        count: How many there are.
        height: Pixels.
        width: Pixels.
        fps: Frames per second.
        times: Presentation time of each frame in seconds; None for a constant rate.
        path: The file, if it is one.
    """

    frames: Callable[[], Iterable[Tensor]]
    count: int
    height: int
    width: int
    fps: Fraction
    times: tuple[Fraction, ...] | None = None
    path: Path | None = None


def open_clip(video: Pixels, fps: Fraction | float | None = None) -> Clip:
    """Look at a video without reading its frames.

    Args:
        video: A file, or uint8 frames (F, H, W, 3).
        fps: Rate of frames given as an array; a file has its own.

    Returns:
        What is known of it, and how to read it.

    Raises:
        DataError: The file is no video, or the array is no uint8 (F, H, W, 3).
    """
    if isinstance(video, str | Path):
        info = probe(video)
        return Clip(
            lambda: iter_frames(video),
            info.frames,
            info.height,
            info.width,
            info.fps,
            frame_times(video),
            Path(video),
        )
    pixels = as_pixels(video, "video", dimensions=(4,))
    if not len(pixels):
        raise DataError("video: has no frames.")
    rate = _ARRAY_FPS if fps is None else Fraction(fps).limit_denominator(100_000)
    return Clip(lambda: pixels, len(pixels), pixels.shape[1], pixels.shape[2], rate)


def as_pixels(array: np.ndarray | Tensor, name: str, dimensions: Sequence[int] = (3, 4)) -> Tensor:
    """Check an array of pixels.

    Args:
        array: uint8 (..., 3).
        name: Names it in errors.
        dimensions: How many dimensions it may have.

    Returns:
        The pixels as a tensor on the CPU.

    Raises:
        DataError: It has another type or shape.
    """
    pixels = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if pixels.dtype != torch.uint8 or pixels.ndim not in dimensions or pixels.shape[-1] != 3:
        wanted = " or ".join({3: "(H, W, 3)", 4: "(F, H, W, 3)"}[d] for d in dimensions)
        raise DataError(
            f"{name}: got {pixels.dtype} {tuple(pixels.shape)}, expected torch.uint8 {wanted}."
        )
    return pixels.cpu()


def reference_images(reference: Pixels | Sequence[Pixels]) -> list[Tensor]:
    """Read reference images.

    Args:
        reference: One or several: an image file, a video file (its first frame is taken), or an
            array.

    Returns:
        uint8 (H, W, 3) each.

    Raises:
        DataError: A file cannot be read, or an array is no image.
    """
    given = reference if isinstance(reference, Sequence) else [reference]
    if isinstance(reference, str):
        given = [reference]
    return [_image(one) for one in given]


def _image(one: Pixels) -> Tensor:
    if not isinstance(one, str | Path):
        return as_pixels(one, "reference", dimensions=(3,))
    if is_image(one):
        return read_image(one)
    return next(iter(iter_frames(one, stop=1)))
