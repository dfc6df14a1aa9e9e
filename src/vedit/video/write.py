"""Write H.264: exactly the frames, rate and size given; equal frames give equal bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vedit.errors import DataError
from vedit.video.decode import reason

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer


def write_video(
    path: str | Path,
    frames: Tensor | Iterable[Tensor],
    fps: Fraction | float,
    audio_from: str | Path | None = None,
    audio_start: float = 0.0,
    crf: int = 16,
    pixel_format: str = "yuv420p",
    times: tuple[Fraction, ...] | None = None,
    preset: str = "medium",
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
        preset: How long x264 may search: faster ones make larger files.

    Raises:
        DataError: There is no frame, or the container cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected the name of a file such as out.mp4.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: its folder cannot be made ({error.strerror}).") from error
    try:
        with _writable(str(partial), str(path)) as output:
            sound = (audio_from, audio_start) if audio_from is not None else None
            _encode(output, str(path), frames, fps, crf, pixel_format, preset, times, sound)
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

    Args:
        frames: uint8 (F, H, W, 3), or one (H, W, 3) after the other.
        fps: Frames per second.
        crf: H.264 quality: 0 is lossless but for the colour conversion, higher is worse.
        pixel_format: FFmpeg name of the colour layout; yuv444p keeps the resolution of the colours.
        preset: How long x264 may search: faster ones make larger files.

    Returns:
        A whole file.

    Raises:
        DataError: There is no frame.
    """
    buffer = io.BytesIO()
    with _writable(buffer, "mp4", "mp4") as output:
        _encode(output, "mp4", frames, fps, crf, pixel_format, preset)
    return buffer.getvalue()


@contextmanager
def _writable(target: Any, name: str, container_format: str | None = None) -> Iterator[Any]:
    import av

    try:
        opened = av.open(target, "w", format=container_format)
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(f"{name}: cannot write this video ({reason(error)}).") from error
    # A ValueError in here may come from what makes the frames, and is then no matter of the file.
    try:
        with opened as output:
            yield output
    except av.error.FFmpegError as error:
        raise DataError(f"{name}: cannot write this video ({reason(error)}).") from error


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
    from av.video.reformatter import Colorspace, VideoReformatter

    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise DataError(f"{name}: no frames to write.")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        pixel_format = "yuv444p"
    rate = Fraction(fps).limit_denominator(100_000)
    # One thread: x264 decides by thread count, and equal frames shall give equal bytes.
    # Its macroblock tree reads memory it never wrote in frames a few blocks wide: off, likewise.
    options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": "mbtree=0"}
    try:
        stream = output.add_stream("libx264", rate=rate, options=options)
    except ValueError as error:  # a container for other kinds of video
        raise DataError(f"{name}: cannot write this video ({reason(error)}).") from error
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    stream.codec_context.time_base = Fraction(1, 90_000) if times else 1 / rate
    # BT.709, limited range, written into the file, so that any player shows the same colours.
    stream.codec_context.colorspace = 1
    stream.codec_context.color_primaries = 1
    stream.codec_context.color_trc = 1
    stream.codec_context.color_range = 1
    opened = _open_sound(output, sound[0]) if sound else None

    scaler = VideoReformatter()
    count = 0
    for index, pixels in enumerate(_chain(first, pictures)):
        picture = av.VideoFrame.from_ndarray(pixels.contiguous().numpy(), "rgb24")
        picture = scaler.reformat(picture, format=pixel_format, dst_colorspace=Colorspace.ITU709)
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
        raise DataError(f"{path}: cannot take the sound from it ({reason(error)}).") from error
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
