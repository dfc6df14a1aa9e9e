"""Conditions that are added to the tokens of a segment."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec, Half
from vedit.conditioning.base import Injection, latents_of
from vedit.conditioning.embed import EmbedFactory, PatchEmbed, PooledPixels
from vedit.errors import ConfigError
from vedit.tokens import Context, Grid, TokenSequence


class AddToTokens(Injection):
    """Add the embedded condition to the tokens of a segment.

    tokens of segment + scale(sigma) * embed(latents). Adds no token, so it costs next to nothing.
    EasyV2V, section 3 (the mask, added to the source tokens).

    Args:
        spec: sizes of the backbone.
        segment: whose tokens to add to.
        embed: makes the embedding of the condition.
    """

    def __init__(
        self, spec: BackboneSpec, segment: str = "target", embed: EmbedFactory = PatchEmbed
    ) -> None:
        super().__init__()
        self.segment = segment
        self.embed = embed(spec)
        self.reads = self.embed.reads

    def scale(self, sigma: Tensor) -> Tensor:
        """The gain on the condition: the one hook to override.

        Args:
            sigma: (B,) noise level of the segment in [0, 1].

        Returns:
            (B,); here one at every noise level.
        """
        return torch.ones_like(sigma)

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Add the condition.

        Args:
            sequence: must hold the segment.
            signal: latents (B, C, t, h, w) on the same token grid as the segment.
            name: of the slot.

        Returns:
            The sequence with (B, N, D) added to the segment's tokens.

        Raises:
            ConfigError: if the segment is not in the sequence.
            ValueError: if the grids differ.
        """
        if self.segment not in sequence.names:
            raise ConfigError(
                f"{name}: adds to segment '{self.segment}', but the sequence has only "
                f"{', '.join(sequence.names)}; an earlier slot must append it, or set `segment`"
            )
        segment = sequence[self.segment]
        tokens, grid = self.embed(latents_of(signal, name), sequence)
        if grid != segment.grid:
            raise ValueError(
                f"slot '{name}': its latents make a token grid of {grid} (time, rows, columns), "
                f"but segment '{self.segment}', to which they are added, has {segment.grid}; give "
                f"both the same number of frames and size, or append instead of adding"
            )
        gain = self.scale(segment.sigma)[:, None, None].to(tokens.dtype)
        return sequence.add(self.segment, gain * tokens)


class SigmaScaledAdd(AddToTokens):
    """`AddToTokens` with the noise level as the gain.

    Full strength on pure noise, nothing on the clean end. Kiwi-Edit adds its source so: the paper
    speaks of a learned gain gamma(t), the published code uses sigma itself; `LearnedScaledAdd` is
    what the paper speaks of.
    """

    def scale(self, sigma: Tensor) -> Tensor:
        """(B,) to (B,): sigma."""
        return sigma


class LearnedScaledAdd(AddToTokens):
    """`AddToTokens` with a learned gain that starts as the noise level.

    gain(sigma) = sigma + f(sigma), f a perceptron of one hidden layer that starts at zero. Kiwi-
    Edit's paper adds its source with a learned gain gamma(t); its form is not given there, this one
    is ours.

    Args:
        spec: sizes of the backbone.
        segment: whose tokens to add to.
        embed: makes the embedding of the condition.
        hidden: width of the perceptron.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        segment: str = "target",
        embed: EmbedFactory = PatchEmbed,
        hidden: int = 16,
    ) -> None:
        super().__init__(spec, segment, embed)
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.gain = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), last)

    def scale(self, sigma: Tensor) -> Tensor:
        """(B,) to (B,): sigma plus what was learned."""
        dtype = next(self.gain.parameters()).dtype
        learned: Tensor = self.gain(sigma[:, None].to(dtype))[:, 0]
        return sigma + learned.to(sigma.dtype)


class PooledMask(AddToTokens):
    """Add a mask that is averaged down to the latent grid instead of encoded.

    An alternative to EasyV2V's mask, which goes through the video autoencoder and a patch embedding
    of its own (section 3): a mask is a low-frequency signal, for which averages over pixels and
    frames may do, and no autoencoder has to run on it. The mask as a sequence of its own is
    `AppendTokens`, with either embedding.

    Args:
        spec: sizes of the backbone.
        segment: whose tokens to add to.
    """

    def __init__(self, spec: BackboneSpec, segment: str = "source") -> None:
        super().__init__(spec, segment, PooledPixels)


class ConcatChannels(AddToTokens):
    """Concatenate the condition to the noisy latents along their channels.

    Patch embedding is linear, so a convolution over 2C channels is the sum of two over C channels:
    this is `AddToTokens` with an embedding without bias, and the pretrained convolution is never
    resized. The source of MiVE (section 4.3) and of Lucy Edit.

    Args:
        spec: sizes of the backbone.
        segment: whose channels to widen.
        widen: also for what later slots embed with the sequence's own embedding
            (`SharedPatchEmbed`): such latents then fill both halves of the channels, as MiVE's
            reference frame, prepended to both branches, does.
        zero_init: start at zero, as a pretrained convolution widened with zeros.
        weights: folder with a pretrained convolution, see `PatchEmbed`.
        weights_slice: which of its input channels to take; "second" where it is the convolution of
            a backbone over 2C channels, whose first half the backbone loads (`input_half`).
    """

    def __init__(
        self,
        spec: BackboneSpec,
        segment: str = "target",
        widen: bool = False,
        zero_init: bool = True,
        weights: str | None = None,
        weights_slice: Half | None = None,
    ) -> None:
        def bias_free(spec: BackboneSpec) -> PatchEmbed:
            return PatchEmbed(spec, False, zero_init, weights, weights_slice)

        super().__init__(spec, segment, bias_free)
        self.widen = widen

    def forward(
        self, sequence: TokenSequence, signal: Tensor | Context, name: str
    ) -> TokenSequence:
        """Add the condition, and widen the sequence's embedding if asked to.

        Args:
            sequence: must hold the segment.
            signal: latents (B, C, t, h, w) on the same token grid as the segment.
            name: of the slot.

        Returns:
            The sequence with (B, N, D) added to the segment's tokens.

        Raises:
            ConfigError: if the segment is not in the sequence.
            ValueError: if the grids differ.
        """
        added = super().forward(sequence, signal, name)
        if not self.widen:
            return added

        def both_halves(latents: Tensor) -> tuple[Tensor, Grid]:
            tokens, grid = sequence.embed(latents)
            return tokens + self.embed(latents, sequence)[0], grid

        return replace(added, embed=both_halves)
