"""How a condition becomes tokens."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec, Half, input_half
from vedit.conditioning.base import Reads
from vedit.conditioning.pooling import pool_to_grid
from vedit.errors import WeightsError
from vedit.folders import lacks_part, resolve_folder
from vedit.tokens import Grid, TokenSequence
from vedit.weights import load_strictly, tensors

log = logging.getLogger(__name__)


class Embedding(nn.Module, ABC):
    """A condition to tokens of the backbone's width.

    Attributes:
        reads: whether it is given latents or pixels.
    """

    reads: Reads = "latents"

    @abstractmethod
    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Embed a condition.

        Args:
            latents: (B, C, t, h, w), or pixels (B, 3, F, H, W) if it `reads` them.
            sequence: the sequence that the tokens will enter.

        Returns:
            (B, N, D) and the token grid.
        """


EmbedFactory = Callable[[BackboneSpec], Embedding]
"""Makes an embedding that fits a backbone; in YAML the `class_path` of an `Embedding`."""


class PatchEmbed(Embedding):
    """A patch embedding of the condition's own, outside the pretrained backbone.

    EasyV2V, section 3 ("independent patch-embedding layer", new parameters start at zero);
    Kiwi-Edit publishes its trained ones as folders beside the transformer.

    Args:
        spec: sizes of the backbone.
        bias: whether it has one.
        zero_init: start at zero, so that training starts from the pretrained model.
        weights: folder or hub id that holds `patch_embedding.weight` and `patch_embedding.bias`. If
            a checkpoint has no such part, or no weights in it, the log says so and the embedding
            starts at zero.
        weights_slice: which input channels to take where the convolution there takes latents
            concatenated along channels: "second" for the source's. Its bias belongs to the first.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        bias: bool = True,
        zero_init: bool = True,
        weights: str | None = None,
        weights_slice: Half | None = None,
    ) -> None:
        super().__init__()
        self.weights, self.weights_slice = weights, weights_slice
        self.proj = nn.Conv3d(
            spec.latent_channels, spec.width, kernel_size=spec.patch, stride=spec.patch, bias=bias
        )
        if zero_init:
            self._zero()

    def _zero(self) -> None:
        for parameter in self.proj.parameters():
            nn.init.zeros_(parameter)

    def load_weights(self) -> None:
        """Load `weights`, if there are any; on the meta device only shapes matter, so nothing.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape, or if neither the
                folder nor the checkpoint that should have it exists.
        """
        if self.weights is None or self.proj.weight.is_meta:
            return
        given = _published(self.weights)
        if given is None:
            log.warning("%s: no patch embedding there, it starts at zero", self.weights)
            self._zero()
            return
        if self.weights_slice is not None and "weight" in given:
            channels = self.proj.in_channels
            half = input_half(given["weight"], channels, self.weights_slice, self.weights)
            given["weight"] = half
        if self.weights_slice == "second" or (self.weights_slice and self.proj.bias is None):
            given.pop("bias", None)
            given |= {} if self.proj.bias is None else {"bias": torch.zeros(self.proj.out_channels)}
        load_strictly(self.proj, given, self.weights, dtype=torch.get_default_dtype())

    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid."""
        return _tokens(self.proj(latents))


def _tokens(x: Tensor) -> tuple[Tensor, Grid]:
    """(B, D, t, h, w) to tokens (B, N, D) and their grid."""
    return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3], x.shape[4])


def _published(weights: str) -> dict[str, Tensor] | None:
    """Weight and bias from a folder, None if a checkpoint lacks that part."""
    try:
        found = tensors(resolve_folder(weights), prefix="patch_embedding.")
    except WeightsError:
        if lacks_part(weights):
            return None
        raise
    return {name: found[name] for name in ("weight", "bias") if name in found}


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


class PooledPixels(Embedding):
    """A patch embedding of pixels that are averaged down to the latent grid of the target.

    One channel, the mean of the colours: for masks and other signals that need no autoencoder.

    Args:
        spec: sizes of the backbone.
        zero_init: start at zero, so that training starts from the pretrained model.
    """

    reads: Reads = "pixels"

    def __init__(self, spec: BackboneSpec, zero_init: bool = True) -> None:
        super().__init__()
        self.patch = spec.patch
        self.proj = nn.Conv3d(1, spec.width, kernel_size=spec.patch, stride=spec.patch)
        if zero_init:
            for parameter in self.proj.parameters():
                nn.init.zeros_(parameter)

    def forward(self, latents: Tensor, sequence: TokenSequence) -> tuple[Tensor, Grid]:
        """Embed pixels.

        Args:
            latents: pixels (B, 3, F, H, W) in [-1, 1], as many frames as the target has.
            sequence: must hold a target with a grid.

        Returns:
            (B, N, D) on the token grid of the target.

        Raises:
            ValueError: if the frames do not divide among the target's latent frames.
        """
        grid = sequence["target"].grid
        if grid is None:
            raise ValueError("segment 'target' has no grid to average pixels on")
        t, h, w = (size * p for size, p in zip(grid, self.patch, strict=True))
        pooled = pool_to_grid(latents.mean(1, keepdim=True), (t, h, w))
        return _tokens(self.proj(pooled.to(self.proj.weight.dtype)))
