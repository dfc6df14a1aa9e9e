"""Wan's diffusion transformer over segments that may differ in noise level, place and visibility.

Every parameter bears the name that diffusers' `WanTransformer3DModel` gives it. The text projection
(`condition_embedder.text_embedder`) is no part of it: it belongs to the context encoder, which
emits tokens of width D.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedit.attention import Kernel, KernelName, choose_kernel
from vedit.backbones.base import Backbone, BackboneSpec, Half
from vedit.backbones.blocks import Block, BlockShape, CrossBlock
from vedit.backbones.layers import Surroundings
from vedit.backbones.modulation import modulated_norm
from vedit.backbones.norm import at_least_float32
from vedit.backbones.recompute import Recompute, spread
from vedit.backbones.rope import rotation
from vedit.errors import ConfigError
from vedit.packing import SideBySide
from vedit.parallel.ulysses import Share, own_draws, share_of
from vedit.tokens import Grid, Target, TokenSequence


def sinusoid(t: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Cosines and sines of a time at geometrically spaced frequencies.

    Args:
        t: any shape, Wan's time in [0, 1000].
        width: number of features, even.
        max_period: of the slowest wave.

    Returns:
        (..., width): cosines, then sines, in at least float32.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = at_least_float32(t)[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def unpatchify(patches: Tensor, grid: Grid, patch: tuple[int, int, int]) -> Tensor:
    """Patches (B, N, pt * ph * pw * C) to latents (B, C, t, h, w)."""
    x = patches.unflatten(2, (*patch, -1)).unflatten(1, grid)
    sizes = [cells * size for cells, size in zip(grid, patch, strict=True)]
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(x), -1, *sizes)


class _TimeMLP(nn.Module):
    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeEmbedding(nn.Module):
    """Noise levels to modulation, one row per sample and segment.

    Args:
        freq_dim: sinusoidal features of the time.
        width: D.
    """

    def __init__(self, freq_dim: int, width: int) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = _TimeMLP(freq_dim, width)
        self.time_proj = nn.Linear(width, 6 * width)

    def forward(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Embed noise levels.

        Args:
            sigma: (B, G) in [0, 1]; Wan's time is 1000 sigma.

        Returns:
            (B, G, D) for the head and (B, G, 6, D) for the blocks.
        """
        features = sinusoid(1000 * sigma, self.freq_dim)
        embedding = self.time_embedder(features.to(self.time_proj.weight.dtype))
        return embedding, self.time_proj(F.silu(embedding)).unflatten(-1, (6, -1))


class WanDiT(Backbone):
    """Wan 2.1 / 2.2 diffusion transformer (defaults: Wan2.2-TI2V-5B).

    Args:
        num_layers: transformer blocks.
        num_attention_heads: heads.
        attention_head_dim: width of a head; heads x width = D.
        ffn_dim: hidden width of the feed-forward layers.
        in_channels: C of the latents.
        out_channels: C of the velocity; None is the same.
        text_dim: width of the text features that the pretrained text projection takes.
        freq_dim: sinusoidal features of the time.
        patch_size: (time, rows, columns).
        cross_attn_norm: whether cross-attention reads normalised tokens.
        eps: of every normalisation.
        weights: folder or hub id in diffusers' layout; None starts from random weights.
        block: makes a block from its shape.
        recompute: which activations the backward pass computes again instead of finding them kept;
            null keeps all.
        attention: kernel to use; "auto" takes the best that is installed.
        input_half: channels to take of the weights' input convolution where it is made for latents
            concatenated along channels: "first" for the noisy ones; null takes it whole.

    Raises:
        ConfigError: if the heads cannot be rotated or a size is not positive.
    """

    def __init__(
        self,
        num_layers: int = 30,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        ffn_dim: int = 14336,
        in_channels: int = 48,
        out_channels: int | None = None,
        text_dim: int = 4096,
        freq_dim: int = 256,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        weights: str | None = None,
        block: Callable[[BlockShape], Block] = CrossBlock,
        recompute: Recompute | None = None,
        attention: KernelName = "auto",
        input_half: Half | None = None,
    ) -> None:
        super().__init__()
        if attention_head_dim % 2 or attention_head_dim < 6:
            raise ConfigError(
                f"attention_head_dim: rotary positions need an even width of at least 6, "
                f"got {attention_head_dim}"
            )
        if num_layers < 1:
            raise ConfigError(f"num_layers: a backbone needs at least one block, got {num_layers}")
        width = num_attention_heads * attention_head_dim
        out_channels = in_channels if out_channels is None else out_channels
        patch = (patch_size[0], patch_size[1], patch_size[2])
        shape = BlockShape(width, num_attention_heads, ffn_dim, cross_attn_norm, eps)

        self.weights = weights
        self.attention = attention
        self.input_half = input_half
        self.heads, self.head_width = num_attention_heads, attention_head_dim
        self.eps = eps
        self.patch_embedding = nn.Conv3d(in_channels, width, kernel_size=patch, stride=patch)
        self.condition_embedder = TimeEmbedding(freq_dim, width)
        self.blocks = nn.ModuleList([block(shape) for _ in range(num_layers)])
        self.recompute = spread(recompute, self.blocks)
        self.proj_out = nn.Linear(width, out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.spec = BackboneSpec(
            width=width,
            latent_channels=in_channels,
            patch=patch,
            cross_attention=bool(getattr(self.blocks[0], "cross_attention", False)),
            blocks=num_layers,
            text_width=text_dim,
            streams=tuple(getattr(self.blocks[0], "streams", ())),
        )

    def embed(self, latents: Tensor) -> tuple[Tensor, Grid]:
        """Latents (B, C, t, h, w) to tokens (B, N, D) and their grid.

        Args:
            latents: (B, C, t, h, w).

        Returns:
            Tokens (B, N, D), and the grid that they form.

        Raises:
            ValueError: if the latents cannot be cut into whole patches.
        """
        sizes = tuple(latents.shape[2:])
        if any(size % p for size, p in zip(sizes, self.spec.patch, strict=True)):
            raise ValueError(
                f"latents of {sizes} (time, rows, columns) cannot be cut into patches of "
                f"{self.spec.patch}"
            )
        x = self.patch_embedding(latents)
        return x.flatten(2).transpose(1, 2).contiguous(), (x.shape[2], x.shape[3], x.shape[4])

    def kernel(self, device: torch.device, dtype: torch.dtype) -> Kernel:
        """The attention kernel used on that device, and why (`.reason`).

        Args:
            device: where the tokens live.
            dtype: of the tokens; autocast overrides it.

        Returns:
            What `attention` chose, or what it falls back to there.
        """
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        return choose_kernel(device.type, dtype, self.attention)

    def forward(self, sequence: TokenSequence | SideBySide) -> Tensor | list[Tensor]:
        """Predict the velocity of the segment named "target".

        Args:
            sequence: segments (B, N, D) in any order, with their noise levels, and a context; or
                several samples side by side.

        Returns:
            (B, C, t, h, w) on the grid of the target; for samples side by side, one of each.

        Raises:
            ValueError: if the target has no grid.
        """
        targets = sequence.targets
        packed = sequence.pack()
        embedding, modulation = self.condition_embedder(packed.sigma)
        x, positions, lengths = packed.tokens, packed.positions, packed.layout.lengths
        samples, share = packed.samples, self._share(x)
        if share is not None:
            x, positions = share.of(x, 1), share.of(positions, 0)
            segments, lengths = share.runs(lengths)
            modulation = modulation[:, segments]
            samples = None if samples is None else share.lengths(samples)
        x = self._alike(x)
        around = Surroundings(
            modulation=modulation,
            lengths=lengths,
            rotation=rotation(positions, self.head_width).to(
                x.device, torch.promote_types(x.dtype, torch.float32)
            ),
            layout=packed.layout,
            context=sequence.context,
            kernel=self.kernel(x.device, x.dtype),
            valid=packed.valid,
            share=share,
            samples=samples,
        )
        x = self._through_blocks(x, around)
        lengths = packed.layout.lengths
        velocities = [self._velocity(x, embedding, lengths, target, share) for target in targets]
        return velocities if isinstance(sequence, SideBySide) else velocities[0]

    def _velocity(
        self,
        x: Tensor,
        embedding: Tensor,
        lengths: tuple[int, ...],
        target: Target,
        share: Share | None,
    ) -> Tensor:
        """The velocity of one target from the tokens (B, N, D) that this rank holds."""
        place = target.place
        held = lengths if share is None else share.lengths(lengths)
        patches = self._head(x.narrow(1, sum(held[:place]), held[place]), embedding[:, place])
        if share is not None:
            patches = share.part(sum(lengths[:place]), lengths[place]).gather(patches)
        return unpatchify(patches, target.grid, self.spec.patch)

    def _share(self, tokens: Tensor) -> Share | None:
        """What this rank holds of a sequence (B, N, D); None for all of it."""
        if self.context_group is None:
            return None
        return share_of(tokens.shape[1], self.heads, self.context_group)

    def _through_blocks(self, x: Tensor, around: Surroundings) -> Tensor:
        with own_draws(around.share if self.training else None, x.device):
            for block, strategy in zip(self.blocks, self.recompute, strict=True):
                x = block(x, around) if strategy is None else strategy.call(block, x, around)
        return x

    def _alike(self, x: Tensor) -> Tensor:
        """The tokens, with a gradient if blocks are compiled: all but the first read such tokens.

        A frozen embedding gives none, and the first block would be compiled for itself.
        """
        if self.compiled and torch.is_grad_enabled() and not x.requires_grad:
            return x.requires_grad_()
        return x

    def _head(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Tokens (B, N, D) at an embedded noise level (B, D) to patches (B, N, p * C)."""
        table = at_least_float32(self.scale_shift_table + embedding[:, None])
        shift, scale = table.chunk(2, dim=1)
        return self.proj_out(modulated_norm(x, shift, scale, (x.shape[1],), self.eps))

    def load_weights(self) -> None:
        """Load `weights` strictly, leaving the projections of contexts to the context encoder.

        What the blocks have no use for is left out, what they have beyond the weights starts
        without effect (`vedit.backbones.pretrained`); one line of the log counts both. They take
        torch's default dtype, float32 unless the trainer's precision says otherwise:
        what is stored in half precision must not train in it.

        Raises:
            WeightsError: if a tensor is missing, unexpected or of another shape, or if the folder's
                config disagrees on a size that no shape shows.
        """
        from vedit.backbones.pretrained import fit, log, with_input_half
        from vedit.folders import resolve_folder
        from vedit.weights import check_config, load_strictly, tensors

        if self.weights is None:
            return
        folder = resolve_folder(self.weights)
        if (folder / "config.json").is_file():
            sizes = {"num_attention_heads": self.heads, "attention_head_dim": self.head_width}
            check_config(folder, {**sizes, "eps": self.eps}, "model.backbone.init_args")
        ignored = ("condition_embedder.text_embedder.", "condition_embedder.image_embedder.")
        own = {name: t for name, t in tensors(folder).items() if not name.startswith(ignored)}
        channels, where = self.spec.latent_channels, str(folder)
        fitted = fit(self.blocks, with_input_half(own, channels, self.input_half, where))
        load_strictly(self, fitted.tensors, where=where, dtype=torch.get_default_dtype())
        log.info(fitted.summary(where))
