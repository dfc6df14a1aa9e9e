"""Edits that depend on the order of the frames; a clip of one frame has no order to change."""

from __future__ import annotations

import torch
from torch import Tensor

from vedit.engine.experts.base import Expert, to_signed, to_unit


def progress(video: Tensor) -> Tensor:
    """Time of each frame, 0 at the first and 1 at the last, (F, 1, 1, 1)."""
    frames = video.shape[0]
    return torch.linspace(0, 1, frames, dtype=video.dtype, device=video.device).view(-1, 1, 1, 1)


class Reverse(Expert):
    """Play backwards."""

    name = "reverse"
    temporal = True
    instructions = (
        "Play the video backwards",
        "Reverse time",
        "Rewind the action from the last frame to the first",
        "Run the footage in reverse order",
        "Make every movement go the other way, as if time ran back",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video.flip(0)


class FreezeFirstFrame(Expert):
    """Hold the first frame."""

    name = "freeze_first_frame"
    temporal = True
    instructions = (
        "Freeze the first frame",
        "Stop all motion and hold the opening image",
        "Turn the clip into a still picture",
        "Pause at the very beginning and stay there",
        "Keep everything motionless, exactly as it looks at the start",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return video[:1].expand_as(video).clone()


class FadeToBlack(Expert):
    """Light 1 - t."""

    name = "fade_to_black"
    temporal = True
    instructions = (
        "Fade to black",
        "Let the picture grow darker until nothing is left at the end",
        "Finish with a gradual fade-out into darkness",
        "Dim the light slowly over the clip, ending in black",
        "Make the scene disappear into blackness over time",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(to_unit(video) * (1 - progress(video)))


class FadeFromBlack(Expert):
    """Light t."""

    name = "fade_from_black"
    temporal = True
    instructions = (
        "Fade in from black",
        "Start in complete darkness and bring the picture up slowly",
        "Open with a gradual fade-in",
        "Let the scene emerge from blackness over time",
        "Begin black and reach full brightness at the last frame",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(to_unit(video) * progress(video))


class FadeToWhite(Expert):
    """(1 - t) x + t."""

    name = "fade_to_white"
    temporal = True
    instructions = (
        "Fade to white",
        "Let the picture dissolve into pure white by the end",
        "Overexpose it more and more until only white remains",
        "Finish with a gradual white-out",
        "Bleach the scene slowly to blank white",
    )

    def __call__(self, video: Tensor) -> Tensor:
        return to_signed(torch.lerp(to_unit(video), torch.ones_like(video), progress(video)))


class Curtain(Expert):
    """Black grows from the left edge, nothing at first, the whole width at the last frame."""

    name = "curtain"
    temporal = True
    instructions = (
        "Draw a black curtain across from left to right over time",
        "Wipe to black from the left",
        "Let darkness sweep in from the left side until it covers all at the end",
        "Close the shot with a left-to-right wipe into black",
        "Slide a black panel over the picture, starting at the left",
    )

    def __call__(self, video: Tensor) -> Tensor:
        width = video.shape[-1]
        x = (torch.arange(width, dtype=video.dtype, device=video.device) + 0.5) / width
        return video.masked_fill(x < progress(video), -1.0)


class Strobe(Expert):
    """Every second frame is black but for a tenth of its light."""

    name = "strobe"
    temporal = True
    instructions = (
        "Add a strobe light",
        "Make the picture flicker between light and dark",
        "Black out every other frame",
        "Let it flash rapidly, as in a discotheque",
        "Alternate normal frames with nearly dark ones",
    )

    def __call__(self, video: Tensor) -> Tensor:
        lit = torch.ones(video.shape[0], dtype=video.dtype, device=video.device)
        lit[1::2] = 0.1
        return to_signed(to_unit(video) * lit.view(-1, 1, 1, 1))
