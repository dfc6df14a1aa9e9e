"""Read videos: uint8 frames, exact frame numbers, one-line errors.

A source is a path, or a binary stream that may carry a ``name`` (a member of a tar shard does).
Frames are uint8 RGB, (H, W, 3) each, upright: rotation metadata is applied.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vedit.errors import DataError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

Source = str | Path | IO[bytes]

# Below this many frames decoding from the start is cheaper than a seek.
_SEEK_FROM = 48

# Up to this many pixels starting decoder threads costs more than they save.
_SMALL = 256 * 256

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


class NamedBytes(io.BytesIO):
    """Bytes in memory that errors can name, such as a member of a shard."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


# --- reading -------------------------------------------------------------------------------


def _source_name(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name", "<video bytes>"))


@contextmanager
def opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream, str]]:
    """Open for decoding; every failure of FFmpeg inside becomes one line with the name."""
    import av

    name = _source_name(source)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise DataError(f"{name}: no such video file.")
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty (0 bytes); fetch or write it again.")
        target: Any = str(source)
    else:
        source.seek(0)
        target = source
    try:
        container = av.open(target)
    except av.error.FFmpegError as error:
        raise DataError(
            f"{name}: not a readable video ({reason(error)}); "
            "it is no video or its end, which holds the index, is cut off."
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name}: holds no video stream.")
        stream = container.streams.video[0]
        if stream.height * stream.width > _SMALL:
            stream.thread_type = "AUTO"
        yield container, stream, name


def packets(
    container: InputContainer, stream: VideoStream, name: str
) -> Iterator[av.Packet[VideoStream]]:
    """Demux, the empty packet that flushes the decoder last.

    A partial packet means that the file ends too early.
    """
    import av

    count = 0
    try:
        for packet in container.demux(stream):
            if packet.size and packet.is_corrupt:
                raise DataError(f"{name}: cut off after frame {count}; fetch it again.")
            yield packet
            count += packet.size > 0
    except av.error.FFmpegError as error:
        raise DataError(
            f"{name}: cut off after frame {count} ({reason(error)}); fetch it again."
        ) from error


def decode(
    source: Source, start: int = 0, stop: int | None = None, stride: int = 1
) -> Iterator[av.VideoFrame]:
    """Decode the pictures ``start, start + stride, ...`` before ``stop``."""
    if start < 0 or stride < 1:
        raise DataError(f"{_source_name(source)}: start {start} must be >= 0, stride {stride} > 0.")
    if start >= _SEEK_FROM:
        with opened(source) as (container, stream, name):
            key = _seek(container, stream, start)
            if key is not None:
                index, pts = key
                # An open group of pictures first shows pictures that need the one before it.
                shown = (p for p in _decoded(container, stream, name) if (p.pts or 0) >= pts)
                yield from _selected(shown, index, start, stop, stride)
                return
    with opened(source) as (container, stream, name):
        yield from _selected(_decoded(container, stream, name), 0, start, stop, stride)


def _selected(
    pictures: Iterator[av.VideoFrame], first: int, start: int, stop: int | None, stride: int
) -> Iterator[av.VideoFrame]:
    for index, picture in enumerate(pictures, first):
        if stop is not None and index >= stop:
            return
        if index >= start and (index - start) % stride == 0:
            yield picture
        if stop is not None and index + 1 >= stop:
            return


def _decoded(container: InputContainer, stream: VideoStream, name: str) -> Iterator[av.VideoFrame]:
    import av

    count = 0
    try:
        for packet in packets(container, stream, name):
            for picture in packet.decode():
                yield picture
                count += 1
    except av.error.FFmpegError as error:
        raise DataError(
            f"{name}: frame {count} does not decode ({reason(error)}); fetch it again."
        ) from error


def _seek(container: InputContainer, stream: VideoStream, start: int) -> tuple[int, int] | None:
    """Go to a key frame at or before ``start``; its index and time stamp, or None if unsafe.

    Only a constant rate in a container with an index maps times to frame numbers exactly.
    """
    import av

    if not {"mp4", "matroska"} & set(container.format.name.split(",")):
        return None
    if not stream.average_rate or stream.average_rate != stream.guessed_rate:
        return None
    origin, tick = stream.start_time or 0, stream.average_rate * (stream.time_base or 0)
    if not tick:
        return None
    try:
        container.seek(origin + int(start / tick), stream=stream, backward=True)
        pts = next(p.pts for p in container.demux(stream) if p.is_keyframe and p.pts is not None)
        container.seek(origin + int(start / tick), stream=stream, backward=True)
    except (av.error.FFmpegError, StopIteration):
        return None
    index = (pts - origin) * tick
    near = round(index)
    exact = abs(index - near) < Fraction(1, 100)
    return (near, pts) if exact and 0 < near <= start else None


class ToRGB:
    """Pictures to upright uint8 (H, W, 3), scaled to cover ``size`` and centre cropped.

    One scaler for all pictures: making it costs more than using it on small ones.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        from av.video.reformatter import VideoReformatter

        self.size = size
        self.scaler: VideoReformatter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> Tensor:
        """Convert one picture."""
        turns = (picture.rotation // 90) % 4
        if self.size is None:
            pixels = self.scaler.reformat(picture, format="rgb24").to_ndarray()
        else:
            height, width = reversed(self.size) if turns % 2 else self.size
            scale = max(height / picture.height, width / picture.width)
            tall = max(height, round(picture.height * scale))
            wide = max(width, round(picture.width * scale))
            scaled = self.scaler.reformat(picture, wide, tall, "rgb24", interpolation="AREA")
            top, left = (tall - height) // 2, (wide - width) // 2
            pixels = scaled.to_ndarray()[top : top + height, left : left + width]
        image = torch.from_numpy(pixels.copy())
        return torch.rot90(image, turns, (0, 1)).contiguous() if turns else image


def _time(picture: av.VideoFrame, fallback: Fraction) -> Fraction:
    if picture.pts is None or picture.time_base is None:
        return fallback
    return Fraction(picture.pts * picture.time_base)


def _rate(stream: VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)


def reason(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
