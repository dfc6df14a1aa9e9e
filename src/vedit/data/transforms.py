"""Pixels to model range, and what happens to a reference image before the model sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vedit.errors import ConfigError

Ground: TypeAlias = float | tuple[float, float, float]
"""A grey value, or a colour (red, green, blue), each from -1 (black) to 1 (white)."""

BLACK = -1.0


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
    """What happens to a reference image in training; subclass for another augmentation.

    Attributes:
        stored: Whether its result is what `vedit data encode` stores, so that cached latents of the
            reference serve as well.
    """

    stored: bool = False

    @abstractmethod
    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Bring an image (3, H, W) in [-1, 1] to ``size`` = (height, width)."""

    def still(self) -> ReferenceTransform:
        """The transform without chance, for validation and editing; here a letterbox on black."""
        return Letterbox()

    def stack(
        self, images: Sequence[Tensor], size: tuple[int, int], generator: Generator
    ) -> Tensor:
        """Bring several references of one sample to one size, each with chance of its own.

        Args:
            images: R images (3, H, W) in [-1, 1], of any sizes.
            size: (height, width).
            generator: Source of chance.

        Returns:
            (R, 3, height, width).
        """
        return torch.stack([self(image, size, generator) for image in images])


class Letterbox(ReferenceTransform):
    """Scale to fit and centre on a uniform ground.

    Args:
        ground: Value around the image, -1 is black and 1 white; three values are a colour.
    """

    def __init__(self, ground: Ground = BLACK) -> None:
        self.ground = checked_ground(ground)
        self.stored = ground == BLACK

    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Letterbox an image (3, H, W); the generator is not used."""
        return letterbox(image, size, self.ground)

    def still(self) -> ReferenceTransform:
        """Itself."""
        return self


class RandomShrink(ReferenceTransform):
    """Letterbox at a random size, so that a reference does not show the size it is to have.

    Kiwi-Edit's training code: centred on white at U(0.7, 1) of the size that fits; at inference the
    size that fits.

    Args:
        scale: Smallest and largest share of the size that fits.
        ground: Value around the image, -1 is black and 1 white; three values are a colour.
    """

    def __init__(self, scale: tuple[float, float] = (0.7, 1.0), ground: Ground = 1.0) -> None:
        self.scale, self.ground = checked_scale(scale), checked_ground(ground)

    def __call__(self, image: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        """Shrink and letterbox an image (3, H, W)."""
        draw = float(torch.rand((), generator=generator))
        share = self.scale[0] + draw * (self.scale[1] - self.scale[0])
        return letterbox(image, size, self.ground, share)

    def still(self) -> ReferenceTransform:
        """A letterbox on the same ground."""
        return Letterbox(self.ground)


class RandomCropRotate(ReferenceTransform):
    """Crop a part of the image and turn it, so that a reference is no copy of a target frame.

    EasyV2V, section 3, key design 4: random cropping and rotation of the reference.

    Args:
        scale: Smallest and largest side of the crop, as a share of the image's.
        degrees: Largest rotation either way.
        ground: Value of what the rotation uncovers, -1 is black and 1 white; three values are a
            colour.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.7, 1.0),
        degrees: float = 10.0,
        ground: Ground = BLACK,
    ) -> None:
        self.scale, self.ground = checked_scale(scale), checked_ground(ground)
        self.degrees = degrees

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

    def still(self) -> ReferenceTransform:
        """A letterbox on the same ground."""
        return Letterbox(self.ground)


def checked_ground(ground: Ground) -> Ground:
    """A ground in the model's range.

    Args:
        ground: One value, or three of a colour.

    Returns:
        The same.

    Raises:
        ConfigError: A value is not in [-1, 1], or there are not three.
    """
    values = [ground] if isinstance(ground, int | float) else list(ground)
    if len(values) not in (1, 3) or not all(-1 <= value <= 1 for value in values):
        raise ConfigError(
            f"ground: expected one value or three from -1 (black) to 1 (white), got {ground}"
        )
    return ground


def checked_scale(scale: tuple[float, float]) -> tuple[float, float]:
    """Two shares in order.

    Args:
        scale: Smallest and largest.

    Returns:
        The same.

    Raises:
        ConfigError: They are not in order, or not in (0, 1].
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"scale: expected two shares, 0 < a <= b <= 1, got {tuple(scale)}")
    return scale[0], scale[1]


def letterbox(
    image: Tensor, size: tuple[int, int], ground: Ground = BLACK, share: float = 1.0
) -> Tensor:
    """Scale an image to fit a size, keeping its aspect, centred on a ground.

    Args:
        image: (3, H, W) in [-1, 1].
        size: (height, width).
        ground: Value around the image.
        share: Of the size that fits.

    Returns:
        (3, height, width).
    """
    height, width = image.shape[1:]
    if (height, width) == size and share == 1.0:
        return image
    scale = share * min(size[0] / height, size[1] / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = F.interpolate(
        image[None], (tall, wide), mode="bilinear", align_corners=False, antialias=True
    )[0]
    canvas = _colour(ground, image).expand(image.shape[0], *size).clone()
    top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
    canvas[:, top : top + tall, left : left + wide] = scaled.clamp(-1, 1)
    return canvas


def rotate(image: Tensor, degrees: float, ground: Ground = BLACK) -> Tensor:
    """Turn an image counter-clockwise about its centre, in its own frame.

    Args:
        image: (3, H, W) in [-1, 1].
        degrees: By how much.
        ground: Value of what is uncovered.

    Returns:
        (3, H, W).
    """
    angle = torch.deg2rad(torch.tensor(degrees))
    cos, sin = float(torch.cos(angle)), float(torch.sin(angle))
    aspect = image.shape[1] / image.shape[2]
    # Output to input coordinates, each axis scaled to [-1, 1].
    matrix = torch.tensor([[cos, -sin * aspect, 0.0], [sin / aspect, cos, 0.0]])
    grid = F.affine_grid(matrix[None], [1, *image.shape], align_corners=False)
    colour = _colour(ground, image)  # what is uncovered samples as zero
    turned = F.grid_sample((image - colour)[None], grid.to(image), align_corners=False)[0]
    return (turned + colour).clamp(-1, 1)


def _colour(ground: Ground, image: Tensor) -> Tensor:
    """(1 or 3, 1, 1) like the image."""
    return image.new_tensor(ground).reshape(-1, 1, 1)
