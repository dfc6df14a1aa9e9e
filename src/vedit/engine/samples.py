"""The samples of a shard: a window, an edit of it, and the words that ask for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from vedit.data.schema import SampleRecord
from vedit.data.shards import Sample
from vedit.engine.build_config import BuildConfig
from vedit.engine.chance import integer, stream
from vedit.engine.experts import Expert, expert
from vedit.engine.experts.apply import apply_edit, local_instruction
from vedit.engine.masks import sample_mask, starting_at
from vedit.engine.pixels import to_pixels, to_signed
from vedit.engine.source_windows import Window
from vedit.engine.transitions import sample_start, transition
from vedit.video import NamedBytes, WindowReader, encode_video, read_video


def samples(config: BuildConfig, windows: list[Window], first: int, stop: int) -> Iterator[Sample]:
    """Make samples ``first`` to ``stop - 1`` of a build; each follows from its number alone.

    Args:
        config: of the build.
        windows: all of its source windows.
        first: number of the first sample.
        stop: number behind the last one.

    Yields:
        Encoded samples; those of one window share the bytes of their source.
    """
    order = torch.randperm(len(config.chosen), generator=stream(config.seed, "edits")).tolist()
    edits = [expert(config.chosen[i]) for i in order]
    per_window = config.samples_per_window
    current, source, video, fps = -1, b"", torch.empty(0), Fraction(1)
    readers: dict[Path, WindowReader] = {}
    for i in range(first, stop):
        window = windows[i // per_window]
        if i // per_window != current:
            current = i // per_window
            if window.clip not in readers:
                readers = {window.clip: WindowReader(window.clip, (config.height, config.width))}
            source, video, fps = _source(window, readers[window.clip], config)
        edit = edits[i % len(edits)]
        yield _sample(f"{config.split}-{i:07d}", window, edit, source, video, fps, config)


def _source(
    window: Window, reader: WindowReader, config: BuildConfig
) -> tuple[bytes, Tensor, Fraction]:
    """The encoded window, and the pixels that a reader of it will see."""
    fps = reader.fps / window.stride
    data = encode_video(reader.read(window.start, config.frames, window.stride), fps, config.crf)
    pixels = read_video(NamedBytes(data, "source")).frames
    return data, to_signed(pixels), fps


def _sample(
    key: str,
    window: Window,
    edit: Expert,
    source: bytes,
    video: Tensor,
    fps: Fraction,
    config: BuildConfig,
) -> Sample:
    generator = stream(config.seed, key)
    masked = float(torch.rand(1, generator=generator)) < config.masked_fraction and edit.local
    mask = None
    if masked:
        shape = (config.frames, config.height, config.width)
        mask = sample_mask(generator, *shape, config.mask_kinds, config.mask_area)
    edited = apply_edit(edit, video, mask)
    shown = integer(generator, config.frames)
    changing, mask = _transition(key, video, edited, mask, config)
    return Sample(
        _record(key, window, edit, fps, masked, mask is not None, config),
        source,
        encode_video(to_pixels(changing), fps, config.crf),
        None if mask is None else _encode_mask(mask, fps),
        (_encode_png(to_pixels(edited[shown : shown + 1])[0]),) if config.reference else (),
    )


def _transition(
    key: str, video: Tensor, edited: Tensor, mask: Tensor | None, config: BuildConfig
) -> tuple[Tensor, Tensor | None]:
    """The target and its mask, of an edit that perhaps sets in within the clip."""
    generator = stream(config.seed, f"{key}/transition")  # what else is drawn stays as it is
    if float(torch.rand(1, generator=generator)) >= config.transition_fraction:
        return edited, mask
    start = sample_start(generator, config.frames)
    whole = torch.ones(config.frames, 1, config.height, config.width) if mask is None else mask
    changing = transition(video, edited, start, config.transition_blend)
    return changing, starting_at(whole, start)


def _record(
    key: str,
    window: Window,
    edit: Expert,
    fps: Fraction,
    local: bool,
    has_mask: bool,
    config: BuildConfig,
) -> SampleRecord:
    numbers = config.wording_numbers(edit)
    return SampleRecord(
        key=key,
        instructions=tuple(
            local_instruction(edit, n) if local else edit.instructions[n] for n in numbers
        ),
        frames=config.frames,
        height=config.height,
        width=config.width,
        fps=float(fps),
        edit=edit.name,
        split=config.split,
        source_clip=window.clip.name,
        start=window.start,
        stride=window.stride,
        has_mask=has_mask,
        has_reference=config.reference,
    )


def _encode_mask(mask: Tensor, fps: Fraction) -> bytes:
    """Lossless: white is the region."""
    return encode_video((mask * 255).byte().permute(0, 2, 3, 1).expand(-1, -1, -1, 3), fps, crf=0)


def _encode_png(pixels: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "png")
    return buffer.getvalue()
