"""Single images in, as uint8 frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vedit.errors import DataError
from vedit.video.decode import Source, source_name

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def is_image(path: str | Path) -> bool:
    """Whether the name is that of a still image."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(source: Source) -> Tensor:
    """Read an image, upright; transparency is put on black.

    Args:
        source: The file, or its bytes.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DataError: The file is missing or no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = source_name(source)
    try:
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such image file.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{name}: not a readable image ({error}).") from error
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    pixels = Image.alpha_composite(black, image).convert("RGB")
    return torch.from_numpy(np.array(pixels))
