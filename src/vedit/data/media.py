"""Members of a sample to tensors in the model's range."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from vedit.data.schema import MASK, REFERENCE
from vedit.data.shards import Entry, ShardReader
from vedit.data.transforms import Letterbox, ReferenceTransform, to_mask, to_model_range
from vedit.errors import DataError
from vedit.video import NamedBytes, read_video


def decode_member(
    reader: ShardReader,
    entry: Entry,
    suffix: str,
    reference: ReferenceTransform | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Decode one member to (3, F, H, W) in [-1, 1]; a reference is one frame.

    Args:
        reader: Where the member lies.
        entry: The sample.
        suffix: The member.
        reference: What to do to a reference; None letterboxes it.
        generator: Source of chance for it.

    Returns:
        (3, F, H, W) in [-1, 1] at the size of the sample.

    Raises:
        DataError: The bytes are damaged or of another shape than the record says.
    """
    data = reader.read(entry, suffix)
    record = entry.record
    size = (record.height, record.width)
    if suffix == REFERENCE:
        transform = reference or Letterbox()
        return transform(_image(data), size, generator or Generator()).unsqueeze(1)
    frames = read_video(data).frames
    if tuple(frames.shape[:3]) != (record.frames, *size):
        raise DataError(
            f"{data.name}: decodes to {tuple(frames.shape[:3])} frames, height and width, its "
            f"record says {(record.frames, *size)}."
        )
    return to_mask(frames) if suffix == MASK else to_model_range(frames)


def _image(data: NamedBytes) -> Tensor:
    """An encoded image as (3, H, W) in [-1, 1]."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(data) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{data.name}: not a readable image ({error}).") from error
    return to_model_range(pixels[None])[:, 0]
