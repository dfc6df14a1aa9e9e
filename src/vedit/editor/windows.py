"""A video of any length as windows of the trained one, and back.

Windows overlap by a few frames, over which one fades into the next. Frames are streamed: no more
than a window and its overlap is held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def count_windows(frames: int, length: int, overlap: int) -> int:
    """How many windows a video takes.

    Args:
        frames: Of the video.
        length: Frames in a window.
        overlap: Frames shared by neighbours.

    Returns:
        At least 1.

    Examples:
        >>> [count_windows(frames, length=9, overlap=2) for frames in (1, 9, 10, 16, 17)]
        [1, 1, 2, 2, 3]
    """
    return 1 + max(0, math.ceil((frames - length) / (length - overlap)))


def cut(frames: Iterable[Tensor], length: int, overlap: int) -> Iterator[tuple[Tensor, int]]:
    """Cut a stream into windows, the last one filled up by repeating its last frame.

    Args:
        frames: Frames of one shape (...).
        length: Frames in a window.
        overlap: Frames shared by neighbours, less than ``length``.

    Yields:
        (length, ...) and how many of these frames are real.
    """
    held: list[Tensor] = []
    fresh = 0  # frames of `held` that no window has shown yet
    for frame in frames:
        held.append(frame)
        fresh += 1
        if len(held) == length:
            yield torch.stack(held), length
            held, fresh = held[length - overlap :], 0
    if fresh:
        real = len(held)
        yield torch.stack(held + held[-1:] * (length - real)), real


def join(windows: Iterable[tuple[Tensor, int]], overlap: int) -> Iterator[Tensor]:
    """Join windows again; over the overlap the weight moves linearly from one to the next.

    Args:
        windows: (length, C, H, W) and how many of these frames are real, as from `cut`.
        overlap: Frames shared by neighbours.

    Yields:
        (C, H, W), as many as the stream that was cut had.
    """
    tail: Tensor | None = None
    for window, real in windows:
        shown = window[:real]
        if tail is not None and len(tail):
            weight = fade(len(tail)).view(-1, *[1] * (window.ndim - 1)).to(window)
            mixed = tail * (1 - weight) + shown[: len(tail)] * weight
            shown = torch.cat([mixed, shown[len(tail) :]])
        done = max(0, real - overlap)
        yield from shown[:done]
        tail = shown[done:]
    if tail is not None:
        yield from tail


def fade(frames: int) -> Tensor:
    """Weight of the later window, rising without reaching 0 or 1.

    Args:
        frames: Over which it rises.

    Returns:
        (frames,).

    Examples:
        >>> fade(3)
        tensor([0.2500, 0.5000, 0.7500])
    """
    return torch.arange(1, frames + 1) / (frames + 1)
