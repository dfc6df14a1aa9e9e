"""Edits of each pixel's colour on its own; every function maps [0, 1] to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from vedit.engine.experts.base import Expert, to_signed, to_unit

Colour = tuple[float, float, float]

SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
HEAT: tuple[Colour, ...] = ((0, 0, 0.3), (0.5, 0, 0.7), (1, 0.2, 0.1), (1, 0.8, 0), (1, 1, 0.9))


def luma(unit: Tensor) -> Tensor:
    """Brightness Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), (F, 1, H, W)."""
    red, green, blue = unit.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def mix_channels(unit: Tensor, matrix: tuple[Colour, ...]) -> Tensor:
    """Multiply every pixel, a column (R, G, B), by a 3 x 3 matrix."""
    return torch.einsum("oc,fchw->fohw", unit.new_tensor(matrix), unit)


def saturation(unit: Tensor, factor: float) -> Tensor:
    """Scale the distance from grey: Y + factor (x - Y)."""
    grey = luma(unit)
    return grey + factor * (unit - grey)


def contrast(unit: Tensor, factor: float) -> Tensor:
    """Scale the distance from middle grey: 0.5 + factor (x - 0.5)."""
    return 0.5 + factor * (unit - 0.5)


def blend(unit: Tensor, colour: Colour, weight: float) -> Tensor:
    """Move every pixel towards one colour: (1 - weight) x + weight colour."""
    return (1 - weight) * unit + weight * unit.new_tensor(colour).view(1, 3, 1, 1)


def filtered(unit: Tensor, colour: Colour) -> Tensor:
    """Look through coloured glass: half the colour kept, times the colour, (x + Y) / 2 * c."""
    return saturation(unit, 0.5) * unit.new_tensor(colour).view(1, 3, 1, 1)


def colour_map(unit: Tensor, stops: tuple[Colour, ...]) -> Tensor:
    """Colour by brightness: piecewise linear through ``stops``, equally spaced in Y."""
    table = unit.new_tensor(stops)
    place = luma(unit)[:, 0].clamp(0, 1) * (len(stops) - 1)
    below = place.floor().clamp(max=len(stops) - 2)
    share = (place - below).unsqueeze(-1)
    index = below.long()
    return torch.lerp(table[index], table[index + 1], share).movedim(-1, 1)


def posterise(unit: Tensor, levels: int) -> Tensor:
    """Round each channel to ``levels`` equally spaced values that include 0 and 1."""
    return (unit * (levels - 1)).round() / (levels - 1)


class Grayscale(Expert):
    """Replace the colour by its luma."""

    name = "grayscale"
    instructions = (
        "Convert the video to black and white",
        "Make it grayscale",
        "Remove all colour and keep only shades of gray",
        "Desaturate the footage completely",
        "Turn this into a monochrome picture, like an old black-and-white film",
        "Drain every hue out of the scene",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(luma(to_unit(video)).expand_as(video))


class Sepia(Expert):
    """Brown toning by the customary 3 x 3 matrix."""

    name = "sepia"
    instructions = (
        "Apply a sepia tone",
        "Give the video the brownish look of an antique photograph",
        "Tone the footage in warm brown",
        "Make it look like a faded vintage print",
        "Use a nostalgic sepia filter, as in pictures from the nineteenth century",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(mix_channels(to_unit(video), SEPIA))


class Negative(Expert):
    """Invert every channel: x -> -x in [-1, 1]."""

    name = "negative"
    instructions = (
        "Invert the colours",
        "Turn the video into a photographic negative",
        "Swap light and dark and replace each colour by its complement",
        "Show the film negative",
        "Make bright areas dark, dark areas bright, and flip all hues to their opposites",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return -video.clamp(-1, 1)


class HueShift(Expert):
    """Turn the hue by 120 degrees: red to green, green to blue, blue to red, exactly."""

    name = "hue_shift"
    instructions = (
        "Rotate the hue by 120 degrees",
        "Shift all hues so that red becomes green, green becomes blue and blue becomes red",
        "Turn the colour wheel by a third",
        "Recolour the scene: make reds green, greens blue, blues red",
        "Change green things to blue and blue things to red with a hue rotation",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video[:, [2, 0, 1]].clamp(-1, 1)


class SwapRedBlue(Expert):
    """Exchange the red and the blue channel; green stays."""

    name = "swap_red_blue"
    instructions = (
        "Swap the red and blue channels",
        "Exchange red with blue and leave green untouched",
        "Make blue things red and red things blue",
        "Read the colours as BGR instead of RGB",
        "Trade the reds for blues and the blues for reds",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video[:, [2, 1, 0]].clamp(-1, 1)


class TintBlue(Expert):
    """Look through blue glass."""

    name = "tint_blue"
    instructions = (
        "Tint the video blue",
        "Add a cold blue cast, as if shot by moonlight",
        "Put a blue filter over the lens",
        "Bathe the scene in blue light",
        "Make the colours icy and bluish",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(filtered(to_unit(video), (0.25, 0.5, 1.25)))


class TintRed(Expert):
    """Look through red glass."""

    name = "tint_red"
    instructions = (
        "Tint the video red",
        "Put a red filter over the lens",
        "Bathe the scene in crimson light",
        "Give it a strong reddish cast, like a photographer's darkroom",
        "Colour the footage red",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(filtered(to_unit(video), (1.25, 0.3, 0.25)))


class NightVision(Expert):
    """Amplified luma in green."""

    name = "night_vision"
    instructions = (
        "Make it look like night vision",
        "Show the scene through green night-vision goggles",
        "Tint the video green",
        "Imitate a glowing green image intensifier",
        "Render the footage in bright phosphor green, as a military night camera would see it",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(
            colour_map(to_unit(video), ((0, 0.05, 0), (0.1, 0.85, 0.1), (0.6, 1, 0.5)))
        )


class Thermal(Expert):
    """Luma through a heat map: dark blue, violet, red, yellow, white."""

    name = "thermal"
    instructions = (
        "Make it look like a thermal camera",
        "Apply an infrared heat-map palette",
        "Map brightness to heat colours, from dark blue through red to yellow",
        "Show it as false-colour thermography",
        "Paint dark areas blue and purple and bright areas orange and yellow, like a heat image",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(colour_map(to_unit(video), HEAT))


class Duotone(Expert):
    """Luma between two colours: teal shadows, pink lights."""

    name = "duotone"
    instructions = (
        "Give the video a duotone of dark teal and pink",
        "Print it in two inks, teal for the shadows and pink for the lights",
        "Map shadows to deep teal and highlights to pale pink",
        "Use only teal and pink, like a risograph poster",
        "Replace the palette by a teal-to-pink gradient",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(colour_map(to_unit(video), ((0, 0.3, 0.35), (1, 0.65, 0.8))))


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


class Saturate(Expert):
    """Saturation times 3."""

    name = "saturate"
    instructions = (
        "Boost the saturation",
        "Make the colours far more vivid",
        "Intensify every hue until the scene looks like candy",
        "Give it rich, vibrant, oversaturated colours",
        "Pump up the colour intensity",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(saturation(to_unit(video), 3.0))


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
