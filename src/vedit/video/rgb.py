"""Pictures as pixels: upright, scaled and cropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import av


class ToRGB:
    """Pictures to upright uint8 (H, W, 3), scaled to cover ``size`` and centre cropped.

    One scaler for all pictures: making it costs more than using it on small ones.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        from av.video.reformatter import VideoReformatter

        self.size = size
        self.scaler: VideoReformatter = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> Tensor:
        """Convert one picture."""
        turns = (picture.rotation // 90) % 4
        if self.size is None:
            pixels = self.scaler.reformat(picture, format="rgb24").to_ndarray()
        else:
            height, width = reversed(self.size) if turns % 2 else self.size
            scale = max(height / picture.height, width / picture.width)
            tall = max(height, round(picture.height * scale))
            wide = max(width, round(picture.width * scale))
            scaled = self.scaler.reformat(picture, wide, tall, "rgb24", interpolation="AREA")
            top, left = (tall - height) // 2, (wide - width) // 2
            pixels = scaled.to_ndarray()[top : top + height, left : left + width]
        image = torch.from_numpy(pixels.copy())
        return torch.rot90(image, turns, (0, 1)).contiguous() if turns else image
