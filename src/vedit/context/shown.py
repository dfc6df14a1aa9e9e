"""What of a batch a vision-language model is shown: the source, then its references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vedit.context.frames import PatchGeometry, PixelBudget, Views, patches_of
from vedit.context.prompt import IMAGE, VIDEO, group_seconds, picture
from vedit.references import reference_names
from vedit.tokens import Grid

Mode = Literal["image", "video", "reference"]
MODES: tuple[Mode, ...] = ("image", "video", "reference")
"""What a prompt shows: a source of one frame, a longer one or none, a reference besides or alone.
"""


@dataclass(frozen=True)
class Shown:
    """One picture of each of B samples, as the prompt and the tower take it.

    Attributes:
        token: `IMAGE` or `VIDEO`.
        patches: (B, P, E).
        grid: in patches.
        seconds: time of each group of frames, where the model is told it in words.
    """

    token: str
    patches: Tensor
    grid: Grid
    seconds: tuple[float, ...] | None = None

    @property
    def grids(self) -> list[Grid]:
        """The grids that have positions of their own: a group of frames behind its time has."""
        return [self.grid] if self.seconds is None else [(1, *self.grid[1:])] * self.grid[0]

    def tokens(self, merge: int) -> int:
        """How many places it has in the prompt, one for each square of merge x merge patches."""
        groups, rows, columns = self.grid
        return groups * (rows // merge) * (columns // merge)

    def words(self, merge: int) -> str:
        """Its place in the user's turn."""
        return picture(self.token, self.grid, merge, self.seconds)


def shown(
    images: Mapping[str, Tensor],
    views: Views,
    geometry: PatchGeometry,
    max_references: int | None = None,
    tells_time: bool = False,
) -> tuple[Mode, list[Shown]]:
    """The pictures of a batch and what kind of prompt they make.

    A source of one frame is an image, unless references follow it: then it is a video of one frame.

    Args:
        images: "source" (B, 3, F, H, W), "reference" (B, 3, 1, h, w) and further ones, in [-1, 1],
            all optional.
        views: how large they are shown, and how many frames.
        geometry: how the tower cuts them.
        max_references: how many references are shown, the first ones; None shows all, 0 is as if
            there were none.
        tells_time: whether the model is told the time of each group of frames in words.

    Returns:
        The mode, and the pictures in the order of the prompt.

    Raises:
        DataError: if a picture is too elongated.
        ConfigError: if `views` does not suit the tower.
    """
    source = images.get("source")
    references = reference_names(images)[:max_references]
    mode: Mode = "reference" if references else "video"
    found = []
    if source is not None and source.shape[2] == 1 and not references:
        mode = "image"
        found.append(_one(source, IMAGE, views.image, geometry))
    elif source is not None:
        film = _one(source, VIDEO, views.video, geometry, views.max_frames)
        frames = min(source.shape[2], views.max_frames)
        times = group_seconds(frames, geometry.frames, views.fps) if tells_time else None
        seconds = None if times is None else tuple(times)
        found.append(Shown(film.token, film.patches, film.grid, seconds))
    found += [_one(images[name], IMAGE, views.reference, geometry) for name in references]
    return mode, found


def _one(
    video: Tensor, token: str, budget: PixelBudget, geometry: PatchGeometry, frames: int = 1
) -> Shown:
    return Shown(token, *patches_of(video, budget, geometry, frames))
