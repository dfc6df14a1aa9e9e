"""Transitions: an edit that sets in within the clip, and the mask that says when.

Source: EasyV2V (arXiv 2512.16920), section 4: the source before frame t, the target from t on, with
a linear blend around t, and a mask whose frames are 0 before t and 1 from t on. How long the blend
is and how t is drawn is not stated; both are our reading.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from vedit.engine.chance import integer
from vedit.errors import ConfigError


def blend_weights(frames: int, start: int, blend: int) -> Tensor:
    """The share of the target in each frame.

    It rises by 1 / (blend + 1) a frame and is a half where the line is centred, between the frames
    start - 1 and start; without a blend it is a step.

    Args:
        frames: F.
        start: the first frame that the mask calls edited.
        blend: frames that are a mixture of both; an odd number makes one more.

    Returns:
        (F,) in [0, 1].

    Examples:
        >>> blend_weights(6, 3, 0).tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
        >>> blend_weights(6, 3, 2).tolist()
        [0.0, 0.0, 0.3333333432674408, 0.6666666865348816, 1.0, 1.0]
    """
    place = torch.arange(frames, dtype=torch.float64) - (start - 0.5)
    return (place / (blend + 1) + 0.5).clamp(0, 1).round(decimals=9).float()


def transition(source: Tensor, target: Tensor, start: int, blend: int = 0) -> Tensor:
    """The clip that turns from source to target.

    Args:
        source: (F, 3, H, W).
        target: (F, 3, H, W), the edit of all of it.
        start: the first frame that the mask calls edited.
        blend: frames that are a mixture of both, half of them before `start`; an odd number makes
            one more.

    Returns:
        (F, 3, H, W); outside the blend each frame is one of the two, bit for bit.

    Raises:
        ConfigError: if there is no such frame to start at, or the blend is no length.
    """
    frames = source.shape[0]
    if not 0 < start < frames:
        raise ConfigError(f"transition: start is {start}, expected 1 to {frames - 1}.")
    if blend < 0:
        raise ConfigError(f"transition: blend is {blend}, expected 0 frames or more.")
    weights = blend_weights(frames, start, blend).view(-1, 1, 1, 1).to(source)
    ends = torch.where(weights >= 1, target, source)
    return torch.where((weights > 0) & (weights < 1), torch.lerp(source, target, weights), ends)


def sample_start(generator: Generator, frames: int) -> int:
    """A frame to start at, each but the first as likely.

    Args:
        generator: source of chance.
        frames: F, at least 2.

    Returns:
        1 to F - 1.
    """
    return 1 + integer(generator, frames - 1)
