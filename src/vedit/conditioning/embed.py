"""How the latents of a condition become tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.tokens import Grid, TokenSequence


class Embedding(nn.Module, ABC):
    """Latents of a condition to tokens of the backbone's width."""

    @abstractmethod
    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Embed latents.

        Args:
            latents: (B, C, t, h, w).
            sequence: the sequence that the tokens will enter.

        Returns:
            (B, N, D) and the token grid.
        """


EmbedFactory = Callable[[BackboneSpec], Embedding]
"""Makes an embedding that fits a backbone; in YAML the `class_path` of an `Embedding`."""


class PatchEmbed(Embedding):
    """A patch embedding of the condition's own, outside the pretrained backbone.

    EasyV2V, section 3 ("independent patch-embedding layer", new parameters start at zero).

    Args:
        spec: sizes of the backbone.
        bias: whether it has one.
        zero_init: start at zero, so that training starts from the pretrained model.
    """

    def __init__(self, spec: BackboneSpec, bias: bool = True, zero_init: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv3d(
            spec.latent_channels, spec.width, kernel_size=spec.patch, stride=spec.patch, bias=bias
        )
        if zero_init:
            for parameter in self.proj.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""
        x = self.proj(latents)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3], x.shape[4])


class SharedPatchEmbed(Embedding):
    """The patch embedding of the sequence itself: the backbone's, which knows clean latents too.

    Args:
        spec: sizes of the backbone; unused, the sequence brings its embedding.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()

    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""
        return sequence.embed(latents)
