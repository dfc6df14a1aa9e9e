"""Small real samples: a moving square and its negative, encoded as the builder does."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vedit.data.index import ShardIndex, write_index
from vedit.data.schema import SampleRecord
from vedit.data.shards import Sample, shard_name, write_shard
from vedit.video import encode_video

HEIGHT, WIDTH, FRAMES = 16, 24, 5


def clip(seed: int, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A bright square that moves over a ground, both of colours that follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    ground, square = torch.randint(20, 230, (2, 3), generator=generator).byte()
    video = ground.expand(frames, height, width, 3).clone()
    for i in range(frames):
        left = (3 * seed + 2 * i) % (width - 6)
        video[i, 4:10, left : left + 6] = square
    return video


def png(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "png")
    return buffer.getvalue()


def sample(
    number: int,
    *,
    frames: int = FRAMES,
    mask: bool = False,
    reference: bool | int = False,
    source: int | None = None,
    key: str | None = None,
) -> Sample:
    """Sample ``number``: make the colours negative; ``source`` names a clip to share.

    Of references, which are frames of the target, there may be several.
    """
    video = clip(number if source is None else source, frames)
    target = 255 - video
    region = torch.zeros_like(video)
    region[:, :, : WIDTH // 2] = 255
    record = SampleRecord(
        key=key or f"train-{number:07d}",
        instructions=("Make it negative", f"Invert the colours of clip {number}"),
        frames=frames,
        height=HEIGHT,
        width=WIDTH,
        fps=24.0,
        edit="negative",
        source_clip=f"clip{number % 3}.mp4",
        has_mask=mask,
        has_reference=bool(reference),
        more_references=max(0, int(reference) - 1),
    )
    return Sample(
        record,
        encode_video(video, 24),
        encode_video(target, 24),
        encode_video(region, 24, crf=0) if mask else None,
        tuple(png(target[(frames // 2 + i) % frames]) for i in range(int(reference))),
    )


def write_folder(folder: Path, samples: list[Sample], shard_size: int = 4) -> ShardIndex:
    """Shards and index of some samples."""
    entries = []
    names = []
    for number, first in enumerate(range(0, len(samples), shard_size)):
        names.append(shard_name("train", number))
        entries += write_shard(folder / names[-1], samples[first : first + shard_size])
    return write_index(folder, entries, names)
