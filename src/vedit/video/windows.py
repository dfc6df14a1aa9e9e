"""Many windows of one video, decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.video.decode import Source, decode
from vedit.video.read import probe
from vedit.video.rgb import ToRGB

if TYPE_CHECKING:
    import av

# A gap longer than this is jumped over; a shorter one is decoded.
_REACH = 96


class WindowReader:
    """Read windows of a video in any order; ascending ones share what was decoded.

    Dense windows of a long film cost one pass over it instead of a seek each, and the frames
    are those that `read_video` returns.
    """

    def __init__(self, source: Source, size: tuple[int, int] | None = None) -> None:
        info = probe(source)
        self.fps: Fraction = info.fps
        self._name = info.path
        self._source = source
        self._to_rgb = ToRGB(size)
        self._next = 0
        self._pictures: Iterator[av.VideoFrame] = iter(())
        # Decoded frames from the start of the last window on; converted when first asked for.
        self._kept: dict[int, av.VideoFrame | Tensor] = {}

    def read(self, start: int, frames: int, stride: int = 1) -> Tensor:
        """Frames ``start, start + stride, ...`` as uint8 (F, H, W, 3).

        Args:
            start: Index of the first frame.
            frames: How many.
            stride: Step between them.

        Returns:
            uint8 (F, H, W, 3).

        Raises:
            DataError: The video is cut off or too short.
        """
        behind = start < self._next and start not in self._kept
        if behind or start > self._next + _REACH or not self._next:
            self._kept = {}
            self._pictures, self._next = decode(self._source, start), start
        for index in [i for i in self._kept if i < start]:
            del self._kept[index]
        stop = start + (frames - 1) * stride + 1
        while self._next < stop:
            picture = next(self._pictures, None)
            if picture is None:
                raise DataError(
                    f"{self._name}: {frames} frames from frame {start} (stride {stride}) asked, "
                    f"the video ends at {self._next}."
                )
            if self._next >= start:
                self._kept[self._next] = picture
            self._next += 1
        return torch.stack([self._frame(i) for i in range(start, stop, stride)])

    def _frame(self, index: int) -> Tensor:
        kept = self._kept[index]
        if not isinstance(kept, Tensor):
            kept = self._kept[index] = self._to_rgb(kept)
        return kept
