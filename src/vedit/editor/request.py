"""What an editor is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vedit.editor.inputs import Pixels


@dataclass(frozen=True)
class Request:
    """What to do with a video.

    Attributes:
        instruction: In words.
        mask: Where: a video or image file, or uint8 frames, of any size; white is inside. It may
            end before the video does, the rest then lies outside.
        reference: What it shall look like: an image file, a video file (its first frame is
            taken), or uint8 pixels (H, W, 3); or several of them, each of any size.
        seed: Of the noise.
        steps: Of the sampler; None takes the number of the checkpoint.
        guidance: Scale on the instruction; None takes that of the checkpoint.
        size: Frames, height and width to edit at; None follows the training clips.
    """

    instruction: str
    mask: Pixels | None = None
    reference: Pixels | Sequence[Pixels] | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int, int] | None = None

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions that are given."""
        given = {
            "instruction": bool(self.instruction),
            "mask": self.mask is not None,
            "reference": self.reference is not None,
        }
        return [name for name, there in given.items() if there]
