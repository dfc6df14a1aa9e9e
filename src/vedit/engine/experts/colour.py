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
