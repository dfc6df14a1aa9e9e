"""Apply an exact edit to a whole video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from vedit.engine.experts import Expert
from vedit.engine.experts.apply import apply_edit
from vedit.engine.pixels import to_pixels, to_signed
from vedit.errors import ConfigError
from vedit.video import iter_frames, probe, write_video
from vedit.video.region import iter_region
from vedit.video.timing import frame_times

_CHUNK = 8
"""Frames edited at a time where an edit does not depend on the others."""


def apply_to_file(
    edit: Expert,
    video: Path,
    output: Path,
    mask: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Edit a video, keeping its size, rate, number of frames and sound.

    Frames are streamed, but for an edit that depends on time, which needs them all at once.

    Args:
        edit: What to do.
        video: File to read.
        output: File to write; appears when it is complete.
        mask: Video or image of any size; the edit shows where it is white.
        progress: Receives frames done and frames in all.

    Returns:
        The number of frames.

    Raises:
        ConfigError: The edit acts on whole frames and cannot be limited by a mask.
        DataError: A file cannot be read or written.
    """
    if mask is not None and not edit.local:
        raise ConfigError(f"--mask: {edit.name} acts on the frame as a whole; leave the mask out.")
    info = probe(video)
    region = iter_region(mask, info.height, info.width) if mask is not None else None
    chunk = info.frames if edit.temporal else _CHUNK

    def edited() -> Iterator[Tensor]:
        done = 0
        for frames in _chunks(iter_frames(video), chunk):
            shown = torch.stack([next(region) for _ in frames]) if region is not None else None
            target = to_pixels(
                apply_edit(edit, to_signed(frames), None if shown is None else shown[:, None])
            )
            for frame in target:
                yield frame
                done += 1
                if progress is not None:
                    progress(done, info.frames)

    write_video(output, edited(), info.fps, audio_from=video, times=frame_times(video))
    return info.frames


def _chunks(frames: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)
