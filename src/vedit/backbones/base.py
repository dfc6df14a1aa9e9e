"""What a backbone is to the rest of the package."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from vedit.tokens import Grid, TokenSequence


@dataclass(frozen=True)
class BackboneSpec:
    """The sizes that injections and context encoders need to fit a backbone.

    Attributes:
        width: D.
        latent_channels: C of the latents it denoises.
        patch: patch size (time, rows, columns).
        cross_attention: whether its blocks attend to a context.
        blocks: number of transformer blocks.
        text_width: width of the text features that its pretrained text projection takes.
        streams: names of the contexts, beyond the main one, that its blocks have branches for.
    """

    width: int
    latent_channels: int
    patch: tuple[int, int, int]
    cross_attention: bool
    blocks: int = 0
    text_width: int = 4096
    streams: tuple[str, ...] = ()


class Backbone(nn.Module, ABC):
    """A diffusion transformer over token sequences.

    Attributes:
        spec: the sizes others need to fit it.
        weights: folder or hub id of pretrained weights, None for random ones.
        blocks: the units of sharding, compilation and gradient checkpointing.
    """

    spec: BackboneSpec
    weights: str | None
    blocks: nn.ModuleList

    @abstractmethod
    def embed(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""

    @abstractmethod
    def forward(self, sequence: TokenSequence) -> Tensor:
        """The velocity (B, C, t, h, w) of the segment named "target"."""

    @abstractmethod
    def load_weights(self) -> None:
        """Load `weights` strictly; the module may be on the meta device.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape.
        """
