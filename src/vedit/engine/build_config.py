"""What a build of exact edits is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vedit.engine.experts import Expert, expert, experts
from vedit.engine.masks import KINDS
from vedit.errors import ConfigError


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        clips: Folder of videos, see `vedit.data.splits.clip_spans`.
        output: Folder for the shards of this split.
        split: "train" draws windows at random; any other split spreads them evenly, so that a
            held-out set is the same whatever the seed.
        edits: Names of edits or class paths, or "all" that ship.
        windows: Number of source windows.
        edits_per_window: How many of the edits each window gets, in turn; None gives it all.
        frames: Length of a window.
        height: Pixels.
        width: Pixels.
        strides: Frame steps to choose from.
        masked_fraction: Share of samples whose edit is limited to a random region.
        mask_kinds: Shapes of the regions.
        mask_area: Smallest and largest share of the frame that a region covers.
        transition_fraction: Share of samples whose edit sets in within the clip; their mask says in
            which frames it holds.
        transition_blend: Frames of a transition that mix source and target.
        reference: Write one frame of the target as a reference image, of the edit itself where it
            sets in later.
        wordings: "all" wordings of an instruction, "seen" for all but the last, "holdout" for
            the last alone, or a list of their numbers.
        seed: Everything random follows from it.
        shard_size: Samples in a shard.
        crf: H.264 quality of source and target, 0 is lossless but for the colour conversion.
        workers: Processes that build shards; 0 builds in this one.
    """

    clips: Path
    output: Path
    split: str = "train"
    edits: list[str] | Literal["all"] = "all"
    windows: int = 100
    edits_per_window: int | None = None
    frames: int = 9
    height: int = 64
    width: int = 112
    strides: list[int] = field(default_factory=lambda: [1, 2])
    masked_fraction: float = 0.0
    mask_kinds: list[str] = field(default_factory=lambda: list(KINDS))
    mask_area: tuple[float, float] = (0.1, 0.5)
    transition_fraction: float = 0.0
    transition_blend: int = 2
    reference: bool = False
    wordings: list[int] | Literal["all", "seen", "holdout"] = "all"
    seed: int = 0
    shard_size: int = 256
    crf: int = 4
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A value out of range.
        """
        for name in ("windows", "frames", "height", "width", "shard_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1.")
        if not self.strides or min(self.strides) < 1:
            raise ConfigError(f"strides: got {self.strides}, expected positive frame steps.")
        for name in ("masked_fraction", "transition_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected 0 to 1.")
        if self.transition_blend < 0:
            raise ConfigError(f"transition_blend: got {self.transition_blend}, expected 0 or more.")
        if self.transition_fraction > 0 and self.frames < 2:  # noqa: PLR2004
            raise ConfigError("transition_fraction: needs clips of at least 2 frames.")
        chosen = len(self.chosen)
        if self.edits_per_window is not None and not 1 <= self.edits_per_window <= chosen:
            raise ConfigError(
                f"edits_per_window: got {self.edits_per_window}, expected 1 to {chosen}, "
                "the number of edits."
            )
        for edit in self.chosen:
            self.wording_numbers(expert(edit))

    @property
    def chosen(self) -> list[str]:
        """Names of the edits to apply."""
        return list(experts()) if self.edits == "all" else list(self.edits)

    @property
    def samples_per_window(self) -> int:
        """How many samples share a source."""
        return self.edits_per_window or len(self.chosen)

    def wording_numbers(self, edit: Expert) -> list[int]:
        """Which wordings of an edit's instruction to write.

        Args:
            edit: Whose.

        Returns:
            Their numbers, at least one.

        Raises:
            ConfigError: An edit has no wording of such a number.
        """
        count = len(edit.instructions)
        named = {"all": range(count), "seen": range(count - 1), "holdout": [count - 1]}
        numbers = self.wordings if isinstance(self.wordings, list) else named[self.wordings]
        if not numbers or not all(0 <= n < count for n in numbers):
            raise ConfigError(
                f"wordings: got {self.wordings}, edit {edit.name} has {count}: 0 to {count - 1}."
            )
        return list(numbers)
