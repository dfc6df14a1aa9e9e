"""What an editor gives back."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from vedit.video import write_video


@dataclass(frozen=True)
class EditedVideo:
    """An edited video, of the size, length and rate of its source.

    Attributes:
        frames: uint8 (F, H, W, 3).
        fps: Frames per second.
        times: Presentation time of each frame in seconds; None for a constant rate.
        source: File that was edited, whose sound `save` takes over.
    """

    frames: Tensor
    fps: Fraction
    times: tuple[Fraction, ...] | None = None
    source: Path | None = None

    def save(self, path: str | Path) -> None:
        """Write a video file, with the sound of the source if that was a file.

        Args:
            path: The file to write.

        Raises:
            DataError: The file cannot be written.
        """
        write_video(path, self.frames, self.fps, audio_from=self.source, times=self.times)
