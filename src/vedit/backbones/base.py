"""What a backbone is to the rest of the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vedit.errors import WeightsError
from vedit.packing import SideBySide
from vedit.tokens import Grid, TokenSequence

if TYPE_CHECKING:
    from vedit.backbones.recompute import Recompute

Half: TypeAlias = Literal["first", "second"]
"""Which input channels of a wider convolution: its first C, or its last C."""


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


def input_half(weight: Tensor, channels: int, half: Half, where: str) -> Tensor:
    """The input channels of one half of a convolution over concatenated latents.

    A convolution over 2C channels is the sum of two over C channels: the first belongs to the noisy
    latents, the second to the source (Lucy Edit's checkpoints: 96 channels = 48 + 48). Of a
    convolution over more channels the first C or the last C are taken (Wan's image-to-video models:
    36 = 16 noisy + 4 of a mask + 16 of the image).

    Args:
        weight: (D, C', pt, ph, pw) of the convolution.
        channels: C of one kind of latents.
        half: which of the two.
        where: the folder, for messages.

    Returns:
        (D, C, pt, ph, pw).

    Raises:
        WeightsError: if the convolution takes fewer than 2C channels.
    """
    if weight.shape[1] < 2 * channels:
        raise WeightsError(
            f"{where}: patch_embedding.weight takes {weight.shape[1]} channels; to be split into "
            f"halves of {channels} it needs at least {2 * channels}."
        )
    kept = weight[:, :channels] if half == "first" else weight[:, -channels:]
    return kept.contiguous()


class Backbone(nn.Module, ABC):
    """A diffusion transformer over token sequences.

    Attributes:
        spec: the sizes others need to fit it.
        weights: folder or hub id of pretrained weights, None for random ones.
        blocks: the units of sharding, compilation and recomputation.
        heads: of self-attention, which ranks that share a sequence divide among them.
        recompute: how each block spares memory (`vedit.backbones.recompute`); empty for none.
        context_group: the ranks that share every sequence among them, all given the same; None is
            a rank for itself. Set before the first forward pass (`vedit.parallel.ulysses`).
        compiled: whether the blocks are compiled (`vedit.compilation`).
    """

    spec: BackboneSpec
    weights: str | None
    blocks: nn.ModuleList
    heads: int = 1
    context_group: ProcessGroup | None = None
    recompute: Sequence[Recompute | None] = ()
    compiled: bool = False

    @abstractmethod
    def embed(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""

    @abstractmethod
    def forward(self, sequence: TokenSequence | SideBySide) -> Tensor | list[Tensor]:
        """The velocity (B, C, t, h, w) of the segment named "target", or one of each sample."""

    @abstractmethod
    def load_weights(self) -> None:
        """Load `weights` strictly; the module may be on the meta device.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape.
        """
