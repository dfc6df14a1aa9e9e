"""Apply an edit to a clip or to a region of it, and say so in words."""

from __future__ import annotations

import torch
from torch import Tensor

from vedit.engine.experts.base import Expert
from vedit.errors import DataError

# "{0}" begins with a capital, "{1}" is the same wording in the middle of a sentence.
LOCAL = (
    "{0}, but only inside the marked region",
    "Inside the masked area only, {1}",
    "{0}; restrict this to the mask and leave the rest as it is",
    "Within the marked region, {1}; do not touch anything else",
    "{0}, just in the selected area",
)


def apply_edit(expert: Expert, video: Tensor, mask: Tensor | None = None) -> Tensor:
    """Edit a clip; with a mask, target = mask * edit + (1 - mask) * source, exactly.

    Args:
        expert: The edit.
        video: Clip (F, 3, H, W) in [-1, 1].
        mask: Region (F, 1, H, W) of zeros and ones; None edits the clip.

    Returns:
        The target, (F, 3, H, W); outside the mask it equals the source bit for bit.

    Raises:
        DataError: The clip or the mask has another shape, or the mask is not binary.
    """
    if video.ndim != 4 or video.shape[1] != 3:
        raise DataError(f"{expert.name}: video is {tuple(video.shape)}, expected (F, 3, H, W).")
    if mask is None:
        return expert(video)
    expected = (video.shape[0], 1, *video.shape[2:])
    if mask.shape != expected:
        raise DataError(f"{expert.name}: mask is {tuple(mask.shape)}, expected {expected}.")
    if not ((mask == 0) | (mask == 1)).all():
        raise DataError(f"{expert.name}: mask holds values other than 0 and 1; threshold it first.")
    return torch.where(mask == 1, expert(video), video)


def local_instruction(expert: Expert, wording_index: int) -> str:
    """The wording that limits an edit to the mask.

    Indices 0, 1, ... combine every wording of the edit with every way to name the region, then
    start again.
    """
    turn, wording = divmod(wording_index, len(expert.instructions))
    text = expert.instructions[wording]
    return LOCAL[(turn + wording) % len(LOCAL)].format(text, text[0].lower() + text[1:])
