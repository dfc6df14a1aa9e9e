"""Read videos: uint8 frames, exact frame numbers, one-line errors.

A source is a path, or a binary stream that may carry a ``name`` (a member of a tar shard does).
Frames are uint8 RGB, (H, W, 3) each, upright: rotation metadata is applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.video.decode import Source, decode, opened, packets
from vedit.video.rgb import ToRGB

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

# Pixel formats whose first plane is 8-bit luma.
_LUMA_FIRST = {f"yuv{j}{chroma}p" for j in ("", "j") for chroma in (420, 422, 444)} | {"nv12"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds; ``frames`` is what decodes, not what the header claims."""

    path: str
    frames: int
    height: int
    width: int
    fps: Fraction
    duration: float
    has_audio: bool


@dataclass(frozen=True)
class Video:
    """Decoded frames, uint8 (F, H, W, 3), with the rate at which they play.

    ``times`` are the presentation times in seconds of each frame, relative to the first; for a
    constant rate they are ``i / fps``.
    """

    frames: Tensor
    fps: Fraction
    path: str
    has_audio: bool
    times: tuple[Fraction, ...]


def probe(source: Source) -> VideoInfo:
    """Describe a video; the frames are decoded and counted when the header cannot be trusted.

    Args:
        source: Path or binary stream.

    Returns:
        Frames, size in pixels, frames and seconds, and whether there is sound.

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    with opened(source) as (container, stream, name):
        stored = 0
        for packet in packets(container, stream, name):
            stored += packet.size > 0 and not packet.is_discard
        frames = stored if stored == stream.frames else 0
        rate = _rate(stream)
        has_audio = bool(container.streams.audio)
        height, width = stream.height, stream.width
    counted = 0
    for picture in decode(source):
        # One picture tells the rotation; the rest is decoded only if the count is in doubt.
        if counted == 0 and picture.rotation % 180:
            height, width = width, height
        counted += 1
        if frames:
            break
    frames = frames or counted
    return VideoInfo(name, frames, height, width, rate, float(frames / rate), has_audio)


def iter_frames(
    source: Source,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
) -> Iterator[Tensor]:
    """Stream frames ``start, start + stride, ...`` before ``stop`` as uint8 (H, W, 3).

    ``size`` is (height, width): scale to cover it (area interpolation), then crop the centre.

    Args:
        source: Path or binary stream.
        start: Index of the first frame.
        stop: Index behind the last one; None goes on to the end.
        stride: Step between frames.
        size: (height, width) in pixels; None keeps that of the video.

    Yields:
        uint8 (H, W, 3), upright.

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    to_rgb = ToRGB(size)
    for picture in decode(source, start, stop, stride):
        yield to_rgb(picture)


def iter_luma(source: Source) -> Iterator[np.ndarray]:
    """Stream the brightness of every frame, uint8 (H, W), as stored (rotation not applied).

    For the usual 8-bit planar formats this is a view that holds until the next frame: several
    times cheaper than RGB.

    Args:
        source: Path or binary stream.

    Yields:
        uint8 (H, W).

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    for picture in decode(source):
        if picture.format.name in _LUMA_FIRST:
            plane: Any = picture.planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            yield rows[:, : plane.width]
        else:
            yield picture.to_ndarray(format="gray")


def read_video(
    source: Source,
    start: int = 0,
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
) -> Video:
    """Read ``frames`` frames (all when None) from ``start``, every ``stride``-th.

    Args:
        source: Path or binary stream.
        start: Index of the first frame.
        frames: How many frames to return.
        stride: Step between frames; the rate of the result is divided by it.
        size: (height, width) to cover by scaling and centre crop.

    Returns:
        The frames, uint8 (F, H, W, 3), and when they are shown.

    Raises:
        DataError: The file is missing, empty, holds no video, is cut off or too short.
    """
    with opened(source) as (container, stream, name):
        fps = _rate(stream) / stride
        has_audio = bool(container.streams.audio)
    stop = None if frames is None else start + (frames - 1) * stride + 1
    kept: list[Tensor] = []
    times: list[Fraction] = []
    to_rgb = ToRGB(size)
    for picture in decode(source, start, stop, stride):
        kept.append(to_rgb(picture))
        times.append(_time(picture, len(times) / fps))
    if not kept or (frames is not None and len(kept) < frames):
        wanted = f"{frames} frames" if frames is not None else "a frame"
        raise DataError(
            f"{name}: {wanted} from frame {start} (stride {stride}) asked, "
            f"{len(kept)} found: the video is too short or cut off."
        )
    return Video(torch.stack(kept), fps, name, has_audio, tuple(t - times[0] for t in times))


def _time(picture: av.VideoFrame, fallback: Fraction) -> Fraction:
    if picture.pts is None or picture.time_base is None:
        return fallback
    return Fraction(picture.pts * picture.time_base)


def _rate(stream: VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
