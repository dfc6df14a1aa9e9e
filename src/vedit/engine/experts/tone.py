"""Edits of each pixel's brightness on its own; every function maps [0, 1] to [0, 1]."""

from __future__ import annotations

from torch import Tensor

from vedit.engine.experts.base import Expert, to_signed, to_unit
from vedit.engine.experts.colour import Colour, luma


def contrast(unit: Tensor, factor: float) -> Tensor:
    """Scale the distance from middle grey: 0.5 + factor (x - 0.5)."""
    return 0.5 + factor * (unit - 0.5)


def blend(unit: Tensor, colour: Colour, weight: float) -> Tensor:
    """Move every pixel towards one colour: (1 - weight) x + weight colour."""
    return (1 - weight) * unit + weight * unit.new_tensor(colour).view(1, 3, 1, 1)


def posterise(unit: Tensor, levels: int) -> Tensor:
    """Round each channel to ``levels`` equally spaced values that include 0 and 1."""
    return (unit * (levels - 1)).round() / (levels - 1)


class Brighten(Expert):
    """Twice the light, highlights clipped."""

    name = "brighten"
    instructions = (
        "Brighten the video",
        "Increase the exposure so that everything looks lighter",
        "Give it twice as much light",
        "Make it much lighter",
        "Turn up the brightness",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(to_unit(video) * 2)


class Darken(Expert):
    """Keep 40% of the light."""

    name = "darken"
    instructions = (
        "Darken the video",
        "Lower the exposure until the scene is dim",
        "Make it look as if most of the lights were turned off",
        "Reduce the brightness strongly",
        "Dim the picture",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(to_unit(video) * 0.4)


class IncreaseContrast(Expert):
    """Contrast times 2.5 about middle grey."""

    name = "increase_contrast"
    instructions = (
        "Increase the contrast",
        "Make the shadows deeper and the highlights brighter",
        "Give the video a harsh, punchy, high-contrast look",
        "Stretch the tones away from middle gray",
        "Push the contrast up strongly",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(contrast(to_unit(video), 2.5))


class Haze(Expert):
    """Move every pixel 65% of the way to a light grey-blue, as distance in mist does."""

    name = "haze"
    instructions = (
        "Cover the scene in pale fog",
        "Add a thick haze",
        "Wash out the picture with grayish mist",
        "Make it look as if filmed through milky glass on a foggy day",
        "Fade the contrast into light gray haze",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(blend(to_unit(video), (0.72, 0.76, 0.8), 0.65))


class Posterise(Expert):
    """Three levels for each channel."""

    name = "posterise"
    instructions = (
        "Posterise the video",
        "Reduce the palette to a handful of flat colours",
        "Make it look like a screen print with flat tones and no gradients",
        "Quantise each colour channel to three levels",
        "Simplify the shading into bold flat patches, like a comic",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(posterise(to_unit(video), 3))


class Solarise(Expert):
    """Fold the tones at middle grey: x -> 1 - 2|x| in [-1, 1]."""

    name = "solarise"
    instructions = (
        "Solarise the video",
        "Apply the Sabattier effect, folding the tones over at middle gray",
        "Make midtones bright while both shadows and highlights turn dark",
        "Give it a psychedelic solarised look",
        "Imitate a print that was exposed to light halfway through development",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return (1 - 2 * video.abs()).clamp(-1, 1)


class Threshold(Expert):
    """White where the luma exceeds 0.45, else black."""

    name = "threshold"
    instructions = (
        "Threshold the video to pure black and pure white",
        "Make a stark two-level image without any grays",
        "Binarise the brightness",
        "Turn it into a high-contrast ink stencil, only black and white patches",
        "Render the picture in one bit",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed((luma(to_unit(video)) > 0.45).to(video.dtype).expand_as(video))
