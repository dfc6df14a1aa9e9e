"""Small video files that tests make: moving pictures of any size, rate and length, with sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor


def moving(frames: int, height: int = 48, width: int = 64) -> Tensor:
    """uint8 (F, H, W, 3): a coloured gradient over which a square wanders."""
    y = torch.linspace(30, 200, height)[:, None].expand(height, width)
    x = torch.linspace(200, 40, width)[None].expand(height, width)
    still = torch.stack([y, x, (x + y) / 2], -1)
    video = still.repeat(frames, 1, 1, 1)
    side = max(4, height // 3)
    for i in range(frames):
        left = (3 * i) % max(1, width - side)
        video[i, side : 2 * side, left : left + side] = torch.tensor([230.0, 90.0, 20.0])
    return video.byte()


def write_clip(
    path: Path,
    frames: Tensor,
    rate: Fraction | int = 24,
    sound: bool = False,
    codec: str = "libx264",
    stamps: list[int] | None = None,
) -> Path:
    """Write frames, uint8 (F, H, W, 3), optionally with a tone, or with stamps in milliseconds."""
    odd = frames.shape[1] % 2 or frames.shape[2] % 2
    with av.open(str(path), "w") as output:
        video = output.add_stream(codec, rate=rate)
        video.width, video.height = frames.shape[2], frames.shape[1]
        video.pix_fmt = "yuv444p" if odd else "yuv420p"
        if stamps is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        audio = output.add_stream("aac", rate=44100) if sound else None
        for i, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels.numpy(), "rgb24")
            if stamps is not None:
                picture.pts, picture.time_base = stamps[i], Fraction(1, 1000)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        if audio is not None:
            _tone(output, audio, len(frames) / float(rate))
    return path


def _tone(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = np.sin(np.arange(int(44100 * seconds)) * 2 * np.pi * 440 / 44100)
    for i in range(0, len(samples) - 1023, 1024):
        block = (samples[i : i + 1024] * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, i, Fraction(1, 44100)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def sound_seconds(path: Path) -> float:
    """Length of the sound that decodes; 0 if there is none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return 0.0
        return sum(f.samples / f.sample_rate for f in container.decode(audio=0))
