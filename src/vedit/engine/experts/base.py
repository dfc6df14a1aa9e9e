"""The interface of a model-free edit, and the pixel range that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Expert(ABC):
    """One exact edit: a pure function of the clip, with several instruction wordings.

    The edit is deterministic and looks the same at every resolution: lengths are fractions of
    the height. A new one is a subclass in any module, named in YAML by its dotted path::

        class Overexpose(Expert):
            name = "overexpose"
            instructions = ("Overexpose the video", ...)

            def __call__(self, video: Tensor) -> Tensor:
                return (video * 2 + 1).clamp(-1, 1)

    Attributes:
        name: Identifier in snake case.
        instructions: At least five wordings, imperative, without a final stop, true both of a
            clip and of a region of it, so that `local_instruction` can add the region.
        temporal: The edit depends on the order of the frames.
        local: The edit shows inside any region; False for those that act on the frame as a
            whole, such as a border.
    """

    name: ClassVar[str]
    instructions: ClassVar[tuple[str, ...]]
    temporal: ClassVar[bool] = False
    local: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, video: Tensor) -> Tensor:
        """Edit a clip (F, 3, H, W) in [-1, 1]; returns a new one of the same shape and range."""


def to_unit(video: Tensor) -> Tensor:
    """Map [-1, 1] to [0, 1]."""
    return video * 0.5 + 0.5


def to_signed(unit: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1], clipping what lies outside."""
    return (unit * 2 - 1).clamp(-1, 1)
