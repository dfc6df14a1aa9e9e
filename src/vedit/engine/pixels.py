"""Pixels as files hold them and as edits compute with them."""

from __future__ import annotations

from torch import Tensor


def to_signed(pixels: Tensor) -> Tensor:
    """Map uint8 (F, H, W, 3) to (F, 3, H, W) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(video: Tensor) -> Tensor:
    """Map (F, 3, H, W) in [-1, 1] to uint8 (F, H, W, 3)."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous()
