"""What a configuration composes to: tokens, parameters, operations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from vedit.attention import choose_kernel
from vedit.backbones.flops import Flops
from vedit.callbacks.holding import Holding, holding_of
from vedit.callbacks.memory import MemoryEstimate, Spread, estimate
from vedit.callbacks.operations import operations_of
from vedit.callbacks.parameters import PartRow, part_rows, published_parameters
from vedit.errors import ConfigError
from vedit.tokens import Grid, Segment, TokenSequence
from vedit.twin import context_lengths, twin_sequence


@dataclass(frozen=True)
class SegmentRow:
    """One segment of the sequence.

    Attributes:
        name: of the segment.
        tokens: how many.
        sigma: its noise level in words: that of the target, clean, or a number.
        positions: first and last index along time, rows and columns.
        sees: names of the segments its queries attend to.
    """

    name: str
    tokens: int
    sigma: str
    positions: tuple[tuple[int, int], ...]
    sees: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """A composed editor at one size of video.

    Attributes:
        video: (frames, height, width).
        latents: (channels, t, h, w).
        segments: of the token sequence with every configured condition present.
        context_tokens: tokens to cross-attend to, as far as words do not decide their number.
        parts: parameters by part.
        transformer: parameters of the pretrained transformer as published, text projection
            included.
        forward: operations of the backbone, one sample.
        step_flops: of a training step, one sample, with what is computed again.
        attention_share: of the forward operations.
        memory: what a training needs on one device.
        holding: what that is made from.
        blocks: of the backbone.
        kernel: which attention kernel runs on this machine, and why.
    """

    video: Grid
    latents: tuple[int, int, int, int]
    segments: tuple[SegmentRow, ...]
    context_tokens: int | None
    parts: tuple[PartRow, ...]
    transformer: int
    forward: Flops
    step_flops: float
    attention_share: float
    memory: MemoryEstimate
    holding: Holding
    blocks: int
    kernel: str

    @property
    def forward_flops(self) -> float:
        """Operations of the backbone, one sample."""
        return self.forward.total

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return sum(row.tokens for row in self.segments)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        more: dict[str, Any] = {"tokens": self.tokens, "forward_flops": self.forward_flops}
        more |= {"parameters": self.parameters(), "memory": self.memory.as_dict()}
        found = {**asdict(self), **more}
        del found["holding"]
        return found

    def parameters(self) -> dict[str, int]:
        """Parameters that train, that are frozen, and those of the transformer as published."""
        return {
            "trainable": sum(row.trainable for row in self.parts),
            "frozen": sum(row.frozen for row in self.parts),
            "transformer": self.transformer,
        }

    def text(self) -> str:
        """Tables for people."""
        counts = self.parameters()
        frames, height, width = self.video
        lines = [
            f"video {frames} x {height} x {width} (frames x height x width)  "
            f"latents {' x '.join(map(str, self.latents))}",
            "",
            *_table(
                ("segment", "tokens", "sigma", "time", "rows", "columns", "sees"),
                [_segment_cells(row) for row in self.segments],
            ),
            f"{self.tokens:,} tokens per sample"
            + (f", {self.context_tokens:,} to cross-attend to" if self.context_tokens else ""),
            "",
            *_table(
                ("part", "trainable", "frozen"),
                [(r.name, f"{r.trainable:,}", f"{r.frozen:,}") for r in self.parts],
            ),
            f"{counts['trainable']:,} parameters train, {counts['frozen']:,} are frozen; "
            f"the pretrained transformer with its text projection has "
            f"{counts['transformer'] / 1e9:.3f} B",
            "",
            f"{_scaled(self.forward_flops)}FLOP forward, {_scaled(self.step_flops)}FLOP a training "
            f"step and sample; {self.attention_share:.0%} of the forward pass is attention",
            f"attention here by {self.kernel}",
            f"training takes {self.memory.text()}",
        ]
        return "\n".join(lines)


def describe(
    system: Any,
    frames: int,
    height: int,
    width: int,
    references: int = 1,
    precision: str = "32-true",
    spread: Spread = Spread(),  # noqa: B008 (frozen)
) -> Description:
    """Describe a built system, which may be on the meta device.

    Args:
        system: an `EditSystem` after `configure_model()` or `build(meta=True)`.
        frames: of the video.
        height: in pixels.
        width: in pixels.
        references: reference images, if the reference slot is configured.
        precision: of the trainer.
        spread: of the training over devices.

    Returns:
        Its segments, its parameters by part, and the operations of a step.

    Raises:
        DataError: if the codec cannot take this size.
    """
    grid = system.codec.latent_grid(frames, height, width)
    patch = system.model.backbone.spec.patch
    if any(size % p for size, p in zip(grid, patch, strict=True)):
        factor = system.codec.spatial_factor
        raise ConfigError(
            f"--height, --width: {height}x{width} makes latents of {grid}, which cannot be cut "
            f"into patches of {patch}; use multiples of {factor * patch[1]} and {factor * patch[2]}"
        )
    lengths = context_lengths(system, (frames, height, width), references)
    sequence = twin_sequence(system, grid, references, lengths)
    attends = system.model.backbone.spec.cross_attention and sequence.context is not None
    attended = sum(lengths.values()) if attends else 0
    backbone, layout = system.model.backbone, sequence.pack().layout
    operations = operations_of(backbone, layout, attended)
    forward = operations.forward
    latents = (system.codec.latent_channels, *grid)
    holding = holding_of(system, sum(layout.lengths), attended, latents, precision)
    recompute = backbone.recompute or [None] * len(backbone.blocks)
    compiled = getattr(system, "compile_blocks", None)
    keep = 1.0 if compiled is None else compiled.share(backbone)
    return Description(
        video=(frames, height, width),
        latents=latents,
        segments=tuple(_segment_row(segment, sequence) for segment in sequence.segments),
        context_tokens=attended or None,
        parts=part_rows(system),
        transformer=published_parameters(backbone),
        forward=forward,
        step_flops=operations.hardware,
        attention_share=forward.attention / forward.total,
        memory=estimate(holding, recompute, spread, keep),
        holding=holding,
        blocks=len(backbone.blocks),
        kernel=kernel_here(backbone, precision),
    )


def kernel_here(backbone: nn.Module, precision: str) -> str:
    """Which attention kernel a backbone runs on this machine, and why.

    Args:
        backbone: its `attention` is what the configuration asks for.
        precision: of the trainer, such as "bf16-mixed".

    Returns:
        Name and reason.

    Raises:
        ConfigError: if one was asked for that this machine lacks.
    """
    half = torch.bfloat16 if "bf16" in precision else torch.float16
    dtype = half if "16" in precision else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kernel = choose_kernel(device, dtype, getattr(backbone, "attention", "auto"))
    return f"{kernel.name} ({kernel.reason})"


def _segment_row(segment: Segment, sequence: TokenSequence) -> SegmentRow:
    some = segment.positions if len(segment.positions) else segment.positions.new_zeros(1, 3)
    low, high = some.amin(0).tolist(), some.amax(0).tolist()
    level = float(segment.sigma[0])
    sigma = {0.5: "of the target", 0.0: "0 (clean)"}.get(level, f"{level:g}")
    return SegmentRow(
        name=segment.name,
        tokens=segment.tokens.shape[1],
        sigma=sigma,
        positions=tuple(zip(low, high, strict=True)),
        sees=sequence.names if segment.sees is None else segment.sees,
    )


def _segment_cells(row: SegmentRow) -> tuple[str, ...]:
    ranges = (f"{low}..{high}" for low, high in row.positions)
    return (row.name, f"{row.tokens:,}", row.sigma, *ranges, ", ".join(row.sees))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: tuple[str, ...]) -> str:
        padded = (
            cell.rjust(width) if cell[:1].isdigit() and cell[-1:].isdigit() else cell.ljust(width)
            for cell, width in zip(cells, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line(head), line(tuple("-" * width for width in widths)), *map(line, rows)]


def _scaled(value: float) -> str:
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g} {letter}"
    return f"{value:.4g} "
