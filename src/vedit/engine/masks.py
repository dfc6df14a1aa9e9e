"""Binary regions (F, 1, H, W), drawn from a generator: boxes, ellipses and moving blobs.

Ellipses and blobs are level sets: a field says how far each pixel lies from the centre, and the
``count`` nearest pixels make the region, so that its area is exact even at the frame's border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from vedit.errors import ConfigError, nearest

KINDS = ("box", "ellipse", "blob")

# Boxes and ellipses are at most this many times longer than wide.
_MAX_ASPECT = 2.5


def pixel_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Coordinates y (H, 1) and x (1, W) of the pixels, the height being 1."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / height
    return y.unsqueeze(1), x.unsqueeze(0)


def nearest_pixels(distance: Tensor, count: int) -> Tensor:
    """Mark the ``count`` smallest entries of every (H, W) plane; ties go to the first.

    Args:
        distance: Field (F, H, W).
        count: Pixels to mark in each frame.

    Returns:
        (F, 1, H, W) of zeros and ones.
    """
    flat = distance.flatten(1)
    level = flat.kthvalue(count, dim=1, keepdim=True).values
    below, level_set = flat < level, flat == level
    missing = count - below.sum(1, keepdim=True)
    chosen = below | (level_set & (level_set.cumsum(1) <= missing))
    return chosen.view(distance.shape).unsqueeze(1).float()


def box(frames: int, height: int, width: int, top: int, left: int, tall: int, wide: int) -> Tensor:
    """An upright rectangle of ``tall`` x ``wide`` pixels, the same in every frame."""
    mask = torch.zeros(frames, 1, height, width)
    mask[..., top : top + tall, left : left + wide] = 1
    return mask


def ellipse(
    frames: int,
    height: int,
    width: int,
    centre: tuple[float, float],
    aspect: float,
    count: int,
) -> Tensor:
    """The ``count`` pixels nearest to ``centre`` (y, x), in a metric that is ``aspect`` x wider.

    The coordinates are those of `pixel_centres`. Where the ellipse would leave the frame, it
    grows on the other side until it holds ``count`` pixels.
    """
    y, x = pixel_centres(height, width)
    distance = torch.hypot(y - centre[0], (x - centre[1]) / aspect)
    return nearest_pixels(distance.unsqueeze(0), count).repeat(frames, 1, 1, 1)


def moving_blob(
    height: int, width: int, centres: Tensor, waves: Tensor, phases: Tensor, count: int
) -> Tensor:
    """A wobbling shape that follows a path, with the same area in every frame.

    Its outline in polar coordinates is r(a) = 1 + sum_k waves_k cos((k + 2) a + phases_k).

    Args:
        height: Rows H.
        width: Columns W.
        centres: Path (F, 2) of (y, x) in the coordinates of `pixel_centres`.
        waves: Amplitudes (K,), their sum below 1.
        phases: Angles (F, K); they may drift from frame to frame.
        count: Pixels in each frame.

    Returns:
        (F, 1, H, W) of zeros and ones.
    """
    y, x = pixel_centres(height, width)
    down = y - centres[:, 0].view(-1, 1, 1)
    right = x - centres[:, 1].view(-1, 1, 1)
    angle = torch.atan2(down, right)
    outline = torch.ones_like(angle)
    for k, wave in enumerate(waves):
        outline = outline + wave * torch.cos((k + 2) * angle + phases[:, k].view(-1, 1, 1))
    return nearest_pixels(torch.hypot(down, right) / outline, count)


def starting_at(mask: Tensor, frame: int) -> Tensor:
    """The same region, active only from ``frame`` on: an edit that sets in within the clip.

    Args:
        mask: (F, 1, H, W) of zeros and ones.
        frame: Number of the first active frame.

    Returns:
        A new mask of the same shape, zero before that frame.

    Raises:
        ConfigError: The clip has no such frame.
    """
    if not 0 <= frame < mask.shape[0]:
        raise ConfigError(f"starting_at: frame is {frame}, expected 0 to {mask.shape[0] - 1}.")
    later = mask.clone()
    later[:frame] = 0
    return later


def sample_mask(
    generator: Generator,
    frames: int,
    height: int,
    width: int,
    kinds: Sequence[str] = KINDS,
    area: tuple[float, float] = (0.1, 0.5),
) -> Tensor:
    """Draw a region whose share of every frame lies in ``area``.

    Args:
        generator: Source of chance; equal states give equal masks.
        frames: Frames F.
        height: Rows H.
        width: Columns W.
        kinds: The shapes to choose from, each as likely: box, ellipse, blob.
        area: Smallest and largest share of the frame.

    Returns:
        (F, 1, H, W) of zeros and ones.

    Raises:
        ConfigError: A kind is unknown, or no number of pixels has such a share.
    """
    counts = _counts(area, height, width)
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"kinds: got {kind!r}, expected {KINDS}.{nearest(kind, KINDS)}")
    if not kinds:
        raise ConfigError(f"kinds: empty, expected some of {KINDS}.")
    kind = kinds[_integer(generator, 0, len(kinds) - 1)]
    if kind == "box":
        return _sample_box(generator, frames, height, width, counts)
    count = _integer(generator, *counts)
    if kind == "ellipse":
        return _sample_ellipse(generator, frames, height, width, count)
    return _sample_blob(generator, frames, height, width, count)


def _sample_box(
    generator: Generator, frames: int, height: int, width: int, counts: tuple[int, int]
) -> Tensor:
    least, most = counts
    sizes = [
        (tall, wide)
        for tall in range(1, height + 1)
        for wide in range(-(-least // tall), min(width, most // tall) + 1)
    ]
    shapely = [s for s in sizes if max(s) <= _MAX_ASPECT * min(s)] or sizes
    if not shapely:
        raise ConfigError(
            f"area: no box in {height} x {width} has {least} to {most} pixels; widen the range."
        )
    tall, wide = shapely[_integer(generator, 0, len(shapely) - 1)]
    top = _integer(generator, 0, height - tall)
    left = _integer(generator, 0, width - wide)
    return box(frames, height, width, top, left, tall, wide)


def _sample_ellipse(
    generator: Generator, frames: int, height: int, width: int, count: int
) -> Tensor:
    centre = (_uniform(generator, 0.3, 0.7), _uniform(generator, 0.3, 0.7) * width / height)
    aspect = math.exp(_uniform(generator, -1, 1) * math.log(_MAX_ASPECT))
    return ellipse(frames, height, width, centre, aspect, count)


def _sample_blob(generator: Generator, frames: int, height: int, width: int, count: int) -> Tensor:
    """A straight path of 0.3 to 0.6 of the frame's sides through a point near its centre."""
    middle = torch.tensor([_uniform(generator, 0.4, 0.6), _uniform(generator, 0.4, 0.6)])
    heading = _uniform(generator, 0, 2 * math.pi)
    reach = torch.tensor([math.sin(heading), math.cos(heading)]) * _uniform(generator, 0.15, 0.3)
    time = torch.linspace(-1, 1, frames).unsqueeze(1)
    centres = (middle + time * reach) * torch.tensor([1.0, width / height])
    waves = torch.rand(3, generator=generator) * torch.tensor([0.25, 0.15, 0.1])
    phases = torch.rand(3, generator=generator) * 2 * math.pi + time * math.pi / 2
    return moving_blob(height, width, centres, waves, phases, count)


def _counts(area: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    least, most = math.ceil(area[0] * height * width), math.floor(area[1] * height * width)
    if not (0 < area[0] <= area[1] <= 1 and 1 <= least <= most):
        raise ConfigError(
            f"area: got {tuple(area)}, expected 0 < smallest <= largest <= 1 with a whole number "
            f"of the {height} x {width} pixels between them."
        )
    return least, most


def _integer(generator: Generator, first: int, last: int) -> int:
    return int(torch.randint(first, last + 1, (1,), generator=generator))


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))
