"""Averages of pixels on a latent grid."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vedit.tokens import Grid


def pool_to_grid(video: Tensor, grid: Grid) -> Tensor:
    """Average a video over the pixels and frames that each latent stands for.

    Causal video autoencoders make t latent frames of F = 1 + k (t - 1) frames: the first stands for
    the first frame alone, every other for k frames.

    Args:
        video: (B, C, F, H, W).
        grid: (t, h, w) of the latents.

    Returns:
        (B, C, t, h, w).

    Raises:
        ValueError: if the frames do not divide so.

    Examples:
        >>> pool_to_grid(torch.arange(5.0).reshape(1, 1, 5, 1, 1), (2, 1, 1)).flatten()
        tensor([0.0000, 2.5000])
    """
    frames, t = video.shape[2], grid[0]
    if frames != t:
        per_latent, rest = divmod(frames - 1, max(1, t - 1))
        if rest or (t == 1 and frames > 1):
            raise ValueError(f"{frames} frames do not divide among {t} latent frames as 1 + k each")
        later = video[:, :, 1:].unflatten(2, (t - 1, per_latent)).mean(3)
        video = torch.cat([video[:, :, :1], later], dim=2)
    pooled = F.adaptive_avg_pool2d(video.transpose(1, 2).flatten(0, 1), grid[1:])
    return pooled.unflatten(0, (video.shape[0], t)).transpose(1, 2)
