"""Edits that move pixels or combine neighbours; lengths are fractions of the height H."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from vedit.engine.experts.base import Expert, to_signed, to_unit
from vedit.engine.experts.colour import luma


def gaussian_blur(video: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian of ``sigma`` pixels, cut at three sigma; borders repeat.

    g(i) = exp(-i^2 / (2 sigma^2)), normalised to sum 1, first along rows, then along columns.
    """
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=video.dtype, device=video.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    frames, channels, height, width = video.shape
    planes = video.reshape(frames * channels, 1, height, width)
    planes = functional.pad(planes, (radius, radius, radius, radius), mode="replicate")
    planes = functional.conv2d(planes, kernel.view(1, 1, 1, -1))
    planes = functional.conv2d(planes, kernel.view(1, 1, -1, 1))
    return planes.view_as(video)


def gradient(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Change of a blurred plane over H/64, downwards and to the right, each shaped like it.

    The Gaussian (sigma H/64) sets the scale, so the result does not depend on the resolution:
    d = (p(i + 1) - p(i - 1)) / 2 * H / 64.
    """
    height = plane.shape[-2]
    smooth = functional.pad(gaussian_blur(plane, height / 64), (1, 1, 1, 1), mode="replicate")
    down = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    right = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    return down * (height / 128), right * (height / 128)


def pixelate(video: Tensor, rows: int) -> Tensor:
    """Average over square cells, ``rows`` of them along the height, and enlarge them again."""
    height, width = video.shape[-2:]
    rows = min(rows, height)
    columns = max(1, min(width, round(width * rows / height)))
    cells = functional.adaptive_avg_pool2d(video, (rows, columns))
    return functional.interpolate(cells, size=(height, width), mode="nearest-exact")


def magnify(video: Tensor, factor: float) -> Tensor:
    """Scale about the centre by a factor above 1, bilinear; the frame size stays."""
    matrix = video.new_tensor(((1 / factor, 0, 0), (0, 1 / factor, 0)))
    theta = matrix.expand(video.shape[0], 2, 3)
    grid = functional.affine_grid(theta, list(video.shape), align_corners=False)
    return functional.grid_sample(
        video, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


class Mirror(Expert):
    """Reverse the columns."""

    name = "mirror"
    local = False
    instructions = (
        "Mirror the video horizontally",
        "Flip it left to right",
        "Show the scene as seen in a mirror",
        "Swap the left and right sides",
        "Reflect the picture about its vertical axis",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video.flip(-1)


class FlipUpsideDown(Expert):
    """Reverse the rows."""

    name = "flip_upside_down"
    local = False
    instructions = (
        "Flip the video upside down, without exchanging left and right",
        "Mirror it vertically",
        "Reflect top to bottom",
        "Show the scene as its reflection in still water",
        "Exchange the top and the bottom by a vertical flip",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video.flip(-2)


class Rotate180(Expert):
    """Reverse rows and columns."""

    name = "rotate_180"
    local = False
    instructions = (
        "Rotate the video by 180 degrees",
        "Turn the picture half a revolution",
        "Spin the image around so that top-left becomes bottom-right",
        "Show it as if the camera had been held the wrong way up",
        "Give it half a turn clockwise",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video.flip(-1, -2)


class Pixelate(Expert):
    """Cells of H/8."""

    name = "pixelate"
    instructions = (
        "Pixelate the video",
        "Make a mosaic of big square blocks",
        "Censor the picture with large pixels",
        "Lower the resolution until only chunky squares remain",
        "Render it in coarse blocks, like a very early video game",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return pixelate(video, 8).clamp(-1, 1)


class Blur(Expert):
    """Gaussian blur of sigma H/24."""

    name = "blur"
    instructions = (
        "Blur the video",
        "Throw it out of focus",
        "Soften all details with a strong Gaussian blur",
        "Make the scene look as if seen through frosted glass",
        "Defocus the lens",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return gaussian_blur(video, video.shape[-2] / 24).clamp(-1, 1)


class Sharpen(Expert):
    """Unsharp mask: x + 4 (x - blur(x)) with sigma H/48."""

    name = "sharpen"
    instructions = (
        "Sharpen the video strongly",
        "Exaggerate fine detail and texture",
        "Apply a heavy unsharp mask",
        "Make all outlines crisp, with visible halos",
        "Over-sharpen it, as a cheap camera would",
    )

    def __call__(self, video: Tensor) -> Tensor:
        soft = gaussian_blur(video, video.shape[-2] / 48)
        return (video + 4 * (video - soft)).clamp(-1, 1)


class Edges(Expert):
    """White lines on black: 8 |gradient of the luma|."""

    name = "edges"
    instructions = (
        "Draw white edges on a black background",
        "Detect the contours and show nothing else",
        "Turn the video into glowing white outlines on black",
        "Keep only the edges",
        "Trace the shapes with chalk lines on a blackboard",
    )

    def __call__(self, video: Tensor) -> Tensor:
        down, right = gradient(luma(to_unit(video)))
        return to_signed((8 * torch.hypot(down, right)).expand_as(video))


class Sketch(Expert):
    """Dark lines on white: 1 - 8 |gradient of the luma|."""

    name = "sketch"
    instructions = (
        "Turn the video into a pencil sketch on white paper",
        "Draw dark outlines on a white background",
        "Make a line drawing of the scene",
        "Redraw it with a graphite pencil",
        "Show just the contours, as black strokes on blank paper",
    )

    def __call__(self, video: Tensor) -> Tensor:
        down, right = gradient(luma(to_unit(video)))
        return to_signed((1 - 8 * torch.hypot(down, right)).expand_as(video))


class Emboss(Expert):
    """Relief lit from the top left: 0.5 - 6 (down + right) / sqrt 2 of the luma."""

    name = "emboss"
    instructions = (
        "Emboss the video",
        "Make it look like a gray stone relief",
        "Press the picture into clay, lit from the top left",
        "Turn the scene into a bas-relief",
        "Give the shapes a raised, stamped-metal look on flat gray",
    )

    def __call__(self, video: Tensor) -> Tensor:
        down, right = gradient(luma(to_unit(video)))
        return to_signed((0.5 - 6 * (down + right) / math.sqrt(2)).expand_as(video))


class ZoomIn(Expert):
    """The central half of each side, enlarged twice."""

    name = "zoom_in"
    local = False
    instructions = (
        "Zoom in on the centre",
        "Magnify the middle of the picture two times",
        "Move the camera closer",
        "Crop to the central half and enlarge it",
        "Make everything appear twice as large",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return magnify(video, 2.0).clamp(-1, 1)


class Shift(Expert):
    """Move a quarter of the width to the right; what leaves returns on the left."""

    name = "shift"
    local = False
    instructions = (
        "Shift the picture to the right by a quarter of its width, wrapping around",
        "Slide everything rightwards and let the overflow come back on the left",
        "Scroll the image a quarter to the right",
        "Move the scene sideways to the right, with wraparound",
        "Cut off the right quarter and put it on the left side",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video.roll(round(video.shape[-1] / 4), dims=-1)
