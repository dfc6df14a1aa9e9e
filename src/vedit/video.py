"""Video files in and out: uint8 frames, exact frame counts, one-line errors.

A source is a path, or a binary stream that may carry a ``name`` (a member of a tar shard does).
Frames are uint8 RGB, (H, W, 3) each, upright: rotation metadata is applied on reading.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
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
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

Source = str | Path | IO[bytes]

# Below this many frames decoding from the start is cheaper than a seek.
_SEEK_FROM = 48

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
    with _opened(source) as (container, stream, name):
        packets = 0
        for packet in _packets(container, stream, name):
            packets += packet.size > 0 and not packet.is_discard
        frames = packets if packets == stream.frames else 0
        rate = _rate(stream)
        has_audio = bool(container.streams.audio)
        height, width = stream.height, stream.width
    counted = 0
    for picture in _pictures(source):
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
    for picture in _pictures(source, start, stop, stride):
        yield _to_rgb(picture, size)


def iter_luma(source: Source) -> Iterator[np.ndarray]:
    """Stream the brightness of every frame, uint8 (H, W), as stored (rotation not applied).

    For the usual 8-bit planar formats this is a view that holds until the next frame: several
    times cheaper than RGB.

    Raises:
        DataError: The file is missing, empty, holds no video, or is cut off.
    """
    for picture in _pictures(source):
        if picture.format.name in _LUMA_FIRST:
            plane = picture.planes[0]
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
    with _opened(source) as (container, stream, name):
        fps = _rate(stream) / stride
        has_audio = bool(container.streams.audio)
    stop = None if frames is None else start + (frames - 1) * stride + 1
    kept: list[Tensor] = []
    times: list[Fraction] = []
    for picture in _pictures(source, start, stop, stride):
        kept.append(_to_rgb(picture, size))
        times.append(_time(picture, len(times) / fps))
    if not kept or (frames is not None and len(kept) < frames):
        wanted = f"{frames} frames" if frames is not None else "a frame"
        raise DataError(
            f"{name}: {wanted} from frame {start} (stride {stride}) asked, "
            f"{len(kept)} found: the video is too short or cut off."
        )
    return Video(torch.stack(kept), fps, name, has_audio, tuple(t - times[0] for t in times))


def write_video(
    path: str | Path,
    frames: Tensor | Iterable[Tensor],
    fps: Fraction | float,
    audio_from: str | Path | None = None,
    audio_start: float = 0.0,
    crf: int = 16,
    pixel_format: str = "yuv420p",
    times: tuple[Fraction, ...] | None = None,
) -> None:
    """Write H.264 of exactly the given frames, rate and size.

    Odd sizes are written as yuv444p, since 4:2:0 has no odd sizes. The file appears under its
    name only when it is complete.

    Args:
        path: Where to write; the suffix chooses the container.
        frames: uint8 (F, H, W, 3), or an iterable of (H, W, 3).
        fps: Frames per second.
        audio_from: File whose sound is taken over: its packets are copied, and encoded anew as
            AAC only where the container cannot hold them.
        audio_start: Second of the sound that belongs to the first frame.
        crf: Quality, 0 lossless but for the colour conversion, 51 worst.
        pixel_format: Chroma layout.
        times: Presentation time of each frame in seconds, for a variable rate.

    Raises:
        DataError: There is no frame, or the container cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _writable(str(partial), str(path)) as output:
            sound = (audio_from, audio_start) if audio_from is not None else None
            _encode(output, str(path), frames, fps, crf, pixel_format, "medium", times, sound)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encode_video(
    frames: Tensor | Iterable[Tensor],
    fps: Fraction | float,
    crf: int = 4,
    pixel_format: str = "yuv444p",
    preset: str = "ultrafast",
) -> bytes:
    """Encode frames, uint8 (F, H, W, 3), as mp4 bytes; equal frames give equal bytes.

    Raises:
        DataError: There is no frame.
    """
    buffer = io.BytesIO()
    with _writable(buffer, "mp4", "mp4") as output:
        _encode(output, "mp4", frames, fps, crf, pixel_format, preset)
    return buffer.getvalue()


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
def _opened(source: Source) -> Iterator[tuple[InputContainer, VideoStream, str]]:
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
            f"{name}: not a readable video ({_reason(error)}); "
            "it is no video or its end, which holds the index, is cut off."
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name}: holds no video stream.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream, name


def _packets(
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
            f"{name}: cut off after frame {count} ({_reason(error)}); fetch it again."
        ) from error


def _pictures(
    source: Source, start: int = 0, stop: int | None = None, stride: int = 1
) -> Iterator[av.VideoFrame]:
    """Decode the pictures ``start, start + stride, ...`` before ``stop``."""
    if start < 0 or stride < 1:
        raise DataError(f"{_source_name(source)}: start {start} must be >= 0, stride {stride} > 0.")
    if start >= _SEEK_FROM:
        with _opened(source) as (container, stream, name):
            key = _seek(container, stream, start)
            if key is not None:
                index, pts = key
                # An open group of pictures first shows pictures that need the one before it.
                shown = (p for p in _decoded(container, stream, name) if (p.pts or 0) >= pts)
                yield from _selected(shown, index, start, stop, stride)
                return
    with _opened(source) as (container, stream, name):
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
        for packet in _packets(container, stream, name):
            for picture in packet.decode():
                yield picture
                count += 1
    except av.error.FFmpegError as error:
        raise DataError(
            f"{name}: frame {count} does not decode ({_reason(error)}); fetch it again."
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


def _to_rgb(picture: av.VideoFrame, size: tuple[int, int] | None) -> Tensor:
    """One upright picture as uint8 (H, W, 3), scaled to cover ``size`` and centre cropped."""
    turns = (picture.rotation // 90) % 4
    if size is None:
        pixels = picture.to_ndarray(format="rgb24")
    else:
        height, width = reversed(size) if turns % 2 else size
        scale = max(height / picture.height, width / picture.width)
        tall = max(height, round(picture.height * scale))
        wide = max(width, round(picture.width * scale))
        scaled = picture.reformat(wide, tall, "rgb24", interpolation="AREA").to_ndarray()
        top, left = (tall - height) // 2, (wide - width) // 2
        pixels = scaled[top : top + height, left : left + width]
    image = torch.from_numpy(pixels.copy())
    return torch.rot90(image, turns, (0, 1)).contiguous() if turns else image


def _time(picture: av.VideoFrame, fallback: Fraction) -> Fraction:
    if picture.pts is None or picture.time_base is None:
        return fallback
    return Fraction(picture.pts * picture.time_base)


def _rate(stream: VideoStream) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]


# --- writing -------------------------------------------------------------------------------


@contextmanager
def _writable(target: Any, name: str, container_format: str | None = None) -> Iterator[Any]:
    import av

    try:
        with av.open(target, "w", format=container_format) as output:
            yield output
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(f"{name}: cannot write this video ({_reason(error)}).") from error


def _encode(
    output: OutputContainer,
    name: str,
    frames: Tensor | Iterable[Tensor],
    fps: Fraction | float,
    crf: int,
    pixel_format: str,
    preset: str,
    times: tuple[Fraction, ...] | None = None,
    sound: tuple[str | Path, float] | None = None,
) -> None:
    import av

    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise DataError(f"{name}: no frames to write.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        pixel_format = "yuv444p"
    rate = Fraction(fps).limit_denominator(100_000)
    # One thread: x264 decides by thread count, and equal frames shall give equal bytes.
    options = {"crf": str(crf), "preset": preset, "threads": "1"}
    stream = output.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    stream.codec_context.time_base = Fraction(1, 90_000) if times else 1 / rate
    # BT.709, limited range, written into the file, so that any player shows the same colours.
    stream.codec_context.colorspace = 1
    stream.codec_context.color_primaries = 1
    stream.codec_context.color_trc = 1
    stream.codec_context.color_range = 1
    opened = _open_sound(output, sound[0]) if sound else None

    count = 0
    for index, pixels in enumerate(_chain(first, pictures)):
        picture = av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), "rgb24")
        picture = picture.reformat(format=pixel_format, dst_colorspace="itu709")
        picture.time_base = stream.codec_context.time_base
        picture.pts = round(times[index] * 90_000) if times else index
        output.mux(stream.encode(picture))
        count += 1
    output.mux(stream.encode(None))
    if sound and opened:
        _mux_sound(output, *opened, start=sound[1], length=float(count / rate))


def _chain(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest


def _open_sound(output: OutputContainer, path: str | Path) -> tuple[Any, Any, bool] | None:
    """The input container, the output stream, and whether packets can be copied."""
    import av

    if not Path(path).is_file():
        raise DataError(f"{path}: no such file to take the sound from.")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: cannot take the sound from it ({_reason(error)}).") from error
    if not container.streams.audio:
        container.close()
        return None
    source = container.streams.audio[0]
    codec = source.codec_context.name
    # Raw samples have no packets to speak of: what counts as one differs between containers.
    if codec in output.supported_codecs and not codec.startswith("pcm_"):
        try:
            return container, output.add_stream_from_template(source), True
        except (av.error.FFmpegError, ValueError):
            pass
    return container, output.add_stream("aac", rate=source.codec_context.sample_rate), False


def _mux_sound(
    output: OutputContainer,
    container: InputContainer,
    stream: Any,
    copied: bool,
    start: float,
    length: float,
) -> None:
    """Mux the sound of ``[start, start + length)`` seconds, shifted to begin at 0."""
    source = container.streams.audio[0]
    tick = Fraction(source.time_base or 1)
    first = (source.start_time or 0) + round(start / tick)
    last = first + round(length / tick)
    # At the beginning the packets before time 0 prime the decoder and belong to the sound.
    earliest = first if start > 0 else first - round(1 / tick)
    with container:
        for packet in container.demux(source):
            at = packet.pts
            if packet.size and (at is None or not earliest <= at < last):
                continue
            if copied:
                if at is None:  # the empty packet at the end
                    continue
                packet.pts = at - first
                packet.dts = packet.pts
                packet.stream = stream
                output.mux(packet)
                continue
            for sound in packet.decode():
                sound.pts = sound.pts - first if sound.pts is not None else None
                output.mux(stream.encode(sound))
        if not copied:
            output.mux(stream.encode(None))
