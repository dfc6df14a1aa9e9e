"""Masks and references in the range of the model, as it encodes them and as it is shown them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vedit.context.base import ContextEncoder
from vedit.data.transforms import ReferenceTransform, to_mask, to_model_range
from vedit.editor.checkpoint import ClipSize
from vedit.editor.inputs import Clip, Pixels, as_pixels, reference_images
from vedit.references import REFERENCE
from vedit.video.region import iter_region


def signed(pixels: Tensor) -> Tensor:
    """One frame, uint8 (H, W, 3), to (3, H, W) in [-1, 1]."""
    return to_model_range(pixels[None])[:, 0]


def regions(clip: Clip, mask: Pixels | None, size: ClipSize) -> Iterator[Tensor]:
    """The region to edit, frame by frame.

    Args:
        clip: the video that is edited.
        mask: a video or image file, or uint8 frames; it may end before the clip does.
        size: at which the clip is edited.

    Yields:
        (3, H, W) of -1 and 1 for each frame of the clip; an empty tensor each without a mask.
    """
    if mask is None:
        yield from (torch.empty(0) for _ in range(clip.count))
        return
    source = mask if isinstance(mask, str | Path) else as_pixels(mask, "mask")
    frames = iter_region(source, size.height, size.width)
    for _, region in zip(range(clip.count), frames, strict=False):
        yield to_mask((region * 255).byte()[None, :, :, None].expand(-1, -1, -1, 3))[:, 0]


@dataclass(frozen=True)
class References:
    """The references of a request.

    Attributes:
        encoded: (1, R, 3, H, W) in [-1, 1] at the size of a clip; None if there are none.
        shown: for a context encoder that looks at them, R images (3, h, w) as they are given, once;
            empty for another.
    """

    encoded: Tensor | None = None
    shown: tuple[tuple[Tensor, ...], ...] = ()


def references(
    given: Pixels | Sequence[Pixels] | None,
    size: ClipSize,
    transform: ReferenceTransform,
    context: ContextEncoder | None = None,
) -> References:
    """Read reference images.

    Args:
        given: one or several, as `vedit.editor.inputs.reference_images` takes them.
        size: at which the clip is edited.
        transform: what brings an image to that size.
        context: whom they may be shown to.

    Returns:
        As they are encoded, and as they are shown.
    """
    if given is None:
        return References()
    images = tuple(signed(image) for image in reference_images(given))
    encoded = transform.stack(images, (size.height, size.width), torch.Generator())[None]
    looks = context is not None and REFERENCE in context.reads_images
    return References(encoded, (images,) if looks else ())
