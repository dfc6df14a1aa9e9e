"""The image embedder of Wan's image-to-video models.

Source: diffusers' `WanImageEmbedding`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Projection(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class _FeedForward(nn.Module):
    """Linear, GELU, linear, by the names of diffusers' `FeedForward`: net.0.proj and net.2."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Projection(width), nn.Identity(), nn.Linear(width, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ImageEmbedder(nn.Module):
    """Wan's map from CLIP features to the width of the backbone: norm, linear, GELU, linear, norm.

    Parameters bear the names of diffusers' `WanImageEmbedding`.

    Args:
        image_width: width E of the features.
        width: width D of the backbone.
        positions: number of tokens that get a learned position, as in Wan's first-and-last-frame
            models; None has none.
    """

    def __init__(self, image_width: int, width: int, positions: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(image_width)
        self.ff = _FeedForward(image_width, width)
        self.norm2 = nn.LayerNorm(width)
        self.pos_embed: nn.Parameter | None = None
        if positions is not None:
            self.pos_embed = nn.Parameter(torch.zeros(1, positions, image_width))

    def forward(self, features: Tensor) -> Tensor:
        """Embed features (B, L, E) as tokens (B, L, D)."""
        x = features
        if self.pos_embed is not None:
            x = x + self.pos_embed[:, : x.shape[1]]
        return _normed(self.norm2, self.ff(_normed(self.norm1, x)))

    def reset_parameters(self) -> None:
        """Initialise every parameter anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        if self.pos_embed is not None:
            nn.init.zeros_(self.pos_embed)


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation in float32, as diffusers has it."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)
