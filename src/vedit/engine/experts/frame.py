"""Edits laid over the frame or made of copies of it; lengths are fractions of the height H."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from vedit.engine.experts.base import Expert, to_signed, to_unit
from vedit.engine.masks import pixel_centres


def shade(video: Tensor, light: Tensor) -> Tensor:
    """Multiply the light of every pixel, [0, 1], by ``light`` (H, W); 0 is black."""
    return to_signed(to_unit(video) * light.to(video))


def blacken(video: Tensor, where: Tensor) -> Tensor:
    """Paint black where the boolean (H, W) holds; elsewhere the pixels stay as they are."""
    return video.masked_fill(where.to(video.device), -1.0)


def smoothstep(value: Tensor, start: float, end: float) -> Tensor:
    """Rise from 0 at ``start`` to 1 at ``end``: 3 t^2 - 2 t^3."""
    t = ((value - start) / (end - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def halve(video: Tensor) -> Tensor:
    """Half the size by averaging 2 x 2 pixels, rounded up: (F, 3, ceil(H/2), ceil(W/2))."""
    height, width = video.shape[-2:]
    return functional.adaptive_avg_pool2d(video, ((height + 1) // 2, (width + 1) // 2))


def mirror_right(video: Tensor) -> Tensor:
    """Put the mirror image of the left half in the place of the right half."""
    width = video.shape[-1]
    left = video[..., : (width + 1) // 2]
    return torch.cat((left, left[..., : width // 2].flip(-1)), dim=-1)


class Vignette(Expert):
    """Darken towards the corners: the light falls from 1 to 0 over the half diagonals."""

    name = "vignette"
    local = False
    instructions = (
        "Add a dark vignette",
        "Let the light fall off towards the corners",
        "Fade the edges of the picture softly into black",
        "Darken the periphery and keep the middle bright, like an old lens",
        "Shade the corners gradually",
    )

    def __call__(self, video: Tensor) -> Tensor:
        y, x = pixel_centres(*video.shape[-2:])
        distance = torch.hypot(2 * y - 1, 2 * x / (video.shape[-1] / video.shape[-2]) - 1)
        return shade(video, 1 - smoothstep(distance, 0.35, 1.2))


class Spotlight(Expert):
    """Full light in a disc of radius 0.33 H at the centre, near darkness elsewhere."""

    name = "spotlight"
    local = False
    instructions = (
        "Shine a round spotlight on the centre and leave the rest in darkness",
        "Light only a circle in the middle",
        "Make it look as if a torch lit the middle of the scene at night",
        "Surround a bright central disc with near black",
        "Add a stage spotlight",
    )

    def __call__(self, video: Tensor) -> Tensor:
        y, x = pixel_centres(*video.shape[-2:])
        distance = torch.hypot(y - 0.5, x - 0.5 * video.shape[-1] / video.shape[-2])
        return shade(video, 1 - 0.92 * smoothstep(distance, 0.31, 0.35))


class BlackBorder(Expert):
    """A black frame of width H/8."""

    name = "black_border"
    local = False
    instructions = (
        "Add a black border",
        "Put a thick black frame around the picture",
        "Surround the video with a dark margin on all four sides",
        "Mount it in a black passe-partout",
        "Paint all four edges black",
    )

    def __call__(self, video: Tensor) -> Tensor:
        height, width = video.shape[-2:]
        y, x = pixel_centres(height, width)
        inside = (y > 1 / 8) & (y < 7 / 8) & (x > 1 / 8) & (x < width / height - 1 / 8)
        return blacken(video, ~inside)


class Letterbox(Expert):
    """Black bars of 3/16 H above and below."""

    name = "letterbox"
    local = False
    instructions = (
        "Letterbox the video",
        "Add cinematic black bars at the top and bottom",
        "Cover the upper and lower parts with horizontal black bands",
        "Give it a widescreen movie format with black stripes above and below",
        "Mask the top and bottom in black",
    )

    def __call__(self, video: Tensor) -> Tensor:
        y, _ = pixel_centres(*video.shape[-2:])
        return blacken(video, ((y < 3 / 16) | (y > 13 / 16)).expand(video.shape[-2:]))


class Scanlines(Expert):
    """Sixteen dark lines of H/32, as on a tube."""

    name = "scanlines"
    instructions = (
        "Add dark scanlines",
        "Make it look like an old CRT television",
        "Overlay thin horizontal black lines",
        "Stripe the picture like a retro monitor",
        "Simulate a cathode-ray tube with visible line structure",
    )

    def __call__(self, video: Tensor) -> Tensor:
        y, _ = pixel_centres(*video.shape[-2:])
        dark = (y * 32).floor() % 2 == 1
        return shade(video, torch.where(dark, 0.15, 1.0))


class Checkerboard(Expert):
    """Black out every second square of H/8."""

    name = "checkerboard"
    instructions = (
        "Overlay a checkerboard of black squares",
        "Black out every second square, as on a chessboard",
        "Hide alternating tiles behind black",
        "Lay a chequered black pattern over the video",
        "Show the scene through a chess pattern",
    )

    def __call__(self, video: Tensor) -> Tensor:
        y, x = pixel_centres(*video.shape[-2:])
        return blacken(video, ((y * 8).floor() + (x * 8).floor()) % 2 == 1)


class ZoomOut(Expert):
    """The picture at half its size in the middle of black."""

    name = "zoom_out"
    local = False
    instructions = (
        "Shrink the picture to half its size on black",
        "Zoom out, leaving black all around",
        "Scale the video down and centre it on a black background",
        "Show a smaller copy in the middle of a black screen",
        "Make it half as large, with nothing but darkness outside",
    )

    def __call__(self, video: Tensor) -> Tensor:
        small = halve(video)
        top, left = (
            have - less for have, less in zip(video.shape[-2:], small.shape[-2:], strict=True)
        )
        top, left = top // 2, left // 2
        target = torch.full_like(video, -1.0)
        target[..., top : top + small.shape[-2], left : left + small.shape[-1]] = small
        return target.clamp(-1, 1)


class Tile(Expert):
    """Two by two copies at half the size."""

    name = "tile"
    local = False
    instructions = (
        "Tile the video in a two by two grid",
        "Show four small copies of the scene",
        "Repeat the picture twice across and twice down",
        "Split the screen into four identical panels",
        "Make a 2x2 video wall of the same clip",
    )

    def __call__(self, video: Tensor) -> Tensor:
        height, width = video.shape[-2:]
        return halve(video).repeat(1, 1, 2, 2)[..., :height, :width].clamp(-1, 1)


class MirrorHalves(Expert):
    """The right half becomes the mirror image of the left half."""

    name = "mirror_halves"
    local = False
    instructions = (
        "Make the picture symmetric by mirroring the left half onto the right",
        "Replace the right side with a reflection of the left side",
        "Fold the image at its vertical centre line",
        "Create left-right symmetry from the left half",
        "Stand a mirror in the middle, facing left",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return mirror_right(video).clamp(-1, 1)


class Kaleidoscope(Expert):
    """The upper left quarter, mirrored into all four quarters."""

    name = "kaleidoscope"
    local = False
    instructions = (
        "Make a kaleidoscope of the upper left quarter",
        "Mirror the top-left quadrant into all four corners",
        "Give it four-fold mirror symmetry",
        "Reflect one corner both sideways and downwards to fill the picture",
        "Turn the scene into a symmetric kaleidoscopic pattern",
    )

    def __call__(self, video: Tensor) -> Tensor:
        top = mirror_right(video).transpose(-1, -2)
        return mirror_right(top).transpose(-1, -2).clamp(-1, 1).contiguous()
