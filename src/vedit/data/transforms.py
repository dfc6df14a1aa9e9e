"""Pixels to model range, and what happens to a reference image before the model sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def to_model_range(frames: Tensor) -> Tensor:
    """Map uint8 (F, H, W, 3) to (3, F, H, W) in [-1, 1]."""
    return frames.permute(3, 0, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(video: Tensor) -> Tensor:
    """Map (3, F, H, W) in [-1, 1] to uint8 (F, H, W, 3), the inverse of `to_model_range`."""
    return video.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0)


def to_mask(frames: Tensor) -> Tensor:
    """Map uint8 (F, H, W, 3) to (3, F, H, W) of -1 (outside) and 1 (inside)."""
    return (frames.permute(3, 0, 1, 2) > 127).float().mul_(2).sub_(1)


class ReferenceTransform(ABC):
    """What happens to a reference image; subclass for another augmentation."""

    random: bool = True
    """A random transform cannot use cached latents of the reference."""

    @abstractmethod
    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Bring an image (3, H, W) in [-1, 1] to ``size`` = (height, width)."""


class Letterbox(ReferenceTransform):
    """Scale to fit and centre on a uniform ground."""

    random = False

    def __init__(self, ground: float = -1.0) -> None:
        self.ground = ground

    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Letterbox an image (3, H, W); the generator is not used."""
        return letterbox(image, size, self.ground)


class RandomCropRotate(ReferenceTransform):
    """Crop a part of the image and turn it, so that a reference is no copy of a target frame.

    EasyV2V, section 5: random crop and rotation on the reference.

    Args:
        scale: Smallest and largest side of the crop, as a share of the image's.
        degrees: Largest rotation either way.
        ground: Value of what the rotation uncovers.
    """

    def __init__(
        self, scale: tuple[float, float] = (0.7, 1.0), degrees: float = 10.0, ground: float = -1.0
    ) -> None:
        self.scale, self.degrees, self.ground = scale, degrees, ground

    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Crop, rotate and letterbox an image (3, H, W)."""
        share, top, left, turn = torch.rand(4, generator=generator).tolist()
        share = self.scale[0] + share * (self.scale[1] - self.scale[0])
        height, width = image.shape[1:]
        tall, wide = max(1, round(height * share)), max(1, round(width * share))
        y, x = round(top * (height - tall)), round(left * (width - wide))
        cropped = image[:, y : y + tall, x : x + wide]
        turned = rotate(cropped, (2 * turn - 1) * self.degrees, self.ground)
        return letterbox(turned, size, self.ground)


def letterbox(image: Tensor, size: tuple[int, int], ground: float = -1.0) -> Tensor:
    """Scale (3, H, W) to fit ``size``, keeping its aspect, centred on ``ground``."""
    height, width = image.shape[1:]
    if (height, width) == size:
        return image
    scale = min(size[0] / height, size[1] / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = F.interpolate(
        image[None], (tall, wide), mode="bilinear", align_corners=False, antialias=True
    )[0]
    canvas = image.new_full((image.shape[0], *size), ground)
    top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
    canvas[:, top : top + tall, left : left + wide] = scaled.clamp(-1, 1)
    return canvas


def rotate(image: Tensor, degrees: float, ground: float = -1.0) -> Tensor:
    """Turn (3, H, W) counter-clockwise about its centre, in its own frame."""
    angle = torch.deg2rad(torch.tensor(degrees))
    cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
    aspect = image.shape[1] / image.shape[2]
    # Output to input coordinates, each axis scaled to [-1, 1].
    matrix = torch.tensor([[cos, -sin * aspect, 0.0], [sin / aspect, cos, 0.0]])
    grid = F.affine_grid(matrix[None], [1, *image.shape], align_corners=False)
    turned = F.grid_sample(image[None] - ground, grid.to(image), align_corners=False)[0]
    return (turned + ground).clamp(-1, 1)
