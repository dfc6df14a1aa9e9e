"""Members of a sample to tensors in the model's range."""

from __future__ import annotations

from torch import Generator, Tensor

from vedit.data.schema import MASK
from vedit.data.shards import Entry, ShardReader
from vedit.data.transforms import Letterbox, to_mask, to_model_range
from vedit.errors import DataError
from vedit.references import is_reference
from vedit.video import read_video
from vedit.video.image import read_image


def decode_member(reader: ShardReader, entry: Entry, suffix: str) -> Tensor:
    """Decode one member as it is encoded to latents; a reference is one frame, letterboxed.

    Args:
        reader: Where the member lies.
        entry: The sample.
        suffix: The member.

    Returns:
        (3, F, H, W) in [-1, 1] at the size of the sample.

    Raises:
        DataError: The bytes are damaged or of another shape than the record says.
    """
    record = entry.record
    size = (record.height, record.width)
    if is_reference(suffix):
        return Letterbox()(decode_image(reader, entry, suffix), size, Generator()).unsqueeze(1)
    data = reader.read(entry, suffix)
    frames = read_video(data).frames
    if tuple(frames.shape[:3]) != (record.frames, *size):
        raise DataError(
            f"{data.name}: decodes to {tuple(frames.shape[:3])} frames, height and width, its "
            f"record says {(record.frames, *size)}."
        )
    return to_mask(frames) if suffix == MASK else to_model_range(frames)


def decode_image(reader: ShardReader, entry: Entry, suffix: str) -> Tensor:
    """Decode a reference as it is.

    Args:
        reader: Where the member lies.
        entry: The sample.
        suffix: The member.

    Returns:
        (3, H, W) in [-1, 1] at its own size; transparency is black, as in editing.
    """
    return to_model_range(read_image(reader.read(entry, suffix))[None])[:, 0]
