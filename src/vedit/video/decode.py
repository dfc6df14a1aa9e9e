"""Decode pictures by exact frame number; every failure of FFmpeg becomes one line with a name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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


class NamedBytes(io.BytesIO):
    """Bytes in memory that errors can name, such as a member of a shard."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@contextmanager
def opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream, str]]:
    """Open for decoding; every failure of FFmpeg inside becomes one line with the name."""
    import av

    name = source_name(source)
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
        raise DataError(f"{source_name(source)}: start {start} must be >= 0, stride {stride} > 0.")
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


def source_name(source: Source) -> str:
    """What errors call a file, or bytes in memory."""
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name", "<bytes>"))


def reason(error: Exception) -> str:
    """What FFmpeg says, in one line."""
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
