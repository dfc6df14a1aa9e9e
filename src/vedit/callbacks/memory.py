"""How much memory a training needs on one device, by formula, before it starts.

Peak = weights + optimizer states + max(activations, gradients, gradients + temporaries of the step)
+ workspace, since the backward pass frees a block's activations as it makes its gradients. What
blocks keep is in `vedit.backbones.activations`. Encoders count with their weights alone: what they
take while they encode is not known here, and nothing where caches serve their results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from vedit.backbones.activations import BlockSizes, Reads, kept_by, reads_of, shared, workspace
from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    OffloadInputs,
    Recompute,
    RecomputeBlocks,
    RecomputeFeedForward,
    kept_bytes,
)
from vedit.callbacks.parameters import ffn_width
from vedit.finetune.stored_linear import StoredLinear

GIB = 2**30
USABLE = 0.94
"""Share of a device's memory that tensors can fill, beside CUDA's context and fragmentation."""

MODES: dict[str, Recompute | None] = {
    "null": None,
    "EveryKth, k 2, RecomputeFeedForward": EveryKth(2, RecomputeFeedForward()),
    "RecomputeFeedForward": RecomputeFeedForward(),
    "EveryKth, k 2, KeepAttention": EveryKth(2, KeepAttention()),
    "KeepAttention": KeepAttention(),
    "RecomputeBlocks": RecomputeBlocks(),
    "OffloadInputs": OffloadInputs(),
}
"""Ways to recompute, from the fastest to the most frugal."""


@dataclass(frozen=True)
class Spread:
    """How a training is spread over devices.

    Attributes:
        batch: samples of one device; the ranks that share a sequence have the same ones.
        shard: ranks that share out weights, beside those of `context`; 1 keeps them whole (DDP).
        context: ranks that share the tokens of a sample.
        frozen: whether weights that do not train are shared out as well.
        accumulates: whether gradients of several batches add up before a step.
    """

    batch: int = 1
    shard: int = 1
    context: int = 1
    frozen: Literal["sharded", "replicated"] = "sharded"
    accumulates: bool = False

    @property
    def pieces(self) -> int:
        """In how many pieces weights lie."""
        return self.shard * self.context


@dataclass(frozen=True)
class Holding:
    """What a system holds, in bytes, and the sizes of one sample.

    Attributes:
        trained: weights that train.
        frozen: weights of the model that do not.
        stored: those of them in fewer bits, which every device holds whole.
        encoders: of the codec and the frozen tower of the context encoder.
        block: of the largest block, as it is gathered to compute with.
        states: numbers that the optimizer keeps for each one that trains.
        temporaries: the same for a moment in a step.
        sizes: of a block, with the tokens of one sample.
        reads: what training a block needs.
        outside: of one sample outside blocks, a function of the ranks that share its tokens.
    """

    trained: float
    frozen: float
    stored: float
    encoders: float
    block: float
    states: float
    temporaries: float
    sizes: BlockSizes
    reads: Reads
    outside: tuple[float, float]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device.

    Attributes:
        weights: of the model, its own pieces and the two blocks gathered at a time.
        encoders: of the codec and the frozen tower.
        optimizer: its states.
        gradients: of what trains.
        step: what the optimizer takes for a moment.
        activations: what is kept until the backward pass.
        workspace: what the backward pass takes for a moment.
        accumulates: whether gradients are there while activations are made.
    """

    weights: float
    encoders: float
    optimizer: float
    gradients: float
    step: float
    activations: float
    workspace: float
    accumulates: bool = False

    @property
    def peak(self) -> float:
        """The most that is held at once."""
        before = self.gradients if self.accumulates else 0.0
        passing = max(before + self.activations, self.gradients) + self.workspace
        lasting = self.weights + self.encoders + self.optimizer
        return lasting + max(passing, self.gradients + self.step)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in GiB."""
        named = {k: v / GIB for k, v in asdict(self).items() if k != "accumulates"}
        return {**named, "peak": self.peak / GIB}

    def text(self) -> str:
        """One line for people."""
        parts = ("weights", "encoders", "optimizer", "gradients", "activations", "workspace")
        listed = ", ".join(f"{part} {getattr(self, part) / GIB:.1f}" for part in parts)
        return f"about {self.peak / GIB:.1f} GiB a device by formula: {listed}"


def estimate(
    holding: Holding, recompute: Sequence[Recompute | None], spread: Spread, keep: float = 1.0
) -> MemoryEstimate:
    """What one device has to hold.

    Args:
        holding: of the system.
        recompute: the strategy of each block.
        spread: over devices.
        keep: share of what blocks keep that `CompileBlocks` is told to leave; the compiler often
            keeps less.

    Returns:
        Bytes by what they are for.
    """
    sizes = replace(
        holding.sizes,
        tokens=spread.batch * holding.sizes.tokens,
        context=spread.batch * holding.sizes.context,
    )
    sizes = shared(sizes, spread.context)
    frozen_pieces = spread.pieces if spread.frozen == "sharded" else 1
    gathered = 2 * holding.block if spread.pieces > 1 else 0.0
    trained = holding.trained / spread.pieces
    whole, split = holding.outside
    return MemoryEstimate(
        weights=trained + holding.frozen / frozen_pieces + holding.stored + gathered,
        encoders=holding.encoders,
        optimizer=trained * holding.states,
        gradients=trained,
        step=trained * holding.temporaries,
        activations=keep * kept_bytes(recompute, kept_by(sizes, holding.reads))
        + spread.batch * (whole + split / spread.context),
        workspace=workspace(sizes),
        accumulates=spread.accumulates,
    )


def frugal_enough(
    holding: Holding, spread: Spread, limit: float, blocks: int
) -> tuple[str, MemoryEstimate] | None:
    """The fastest way to recompute that fits.

    Args:
        holding: of the system.
        spread: over devices.
        limit: bytes of a device.
        blocks: of the backbone.

    Returns:
        What to write for `recompute`, and what is needed then; None if nothing fits.
    """
    for name, strategy in MODES.items():
        each = [None if strategy is None else strategy.at(i) for i in range(blocks)]
        needed = estimate(holding, each, spread)
        if needed.peak <= USABLE * limit:
            return name, needed
    return None


def holding_of(
    system: Any, tokens: int, context: int, latents: Sequence[int], precision: str
) -> Holding:
    """What a system holds.

    Args:
        system: built, on the meta device or not, its finetuning plan applied.
        tokens: N of one sample.
        context: L of one sample, 0 without cross-attention.
        latents: (C, t, h, w) of one sample.
        precision: of the trainer, such as "bf16-mixed".

    Returns:
        Bytes and sizes for `estimate`.
    """
    backbone = system.model.backbone
    number = 2 if "16" in precision else 4
    mixed = "mixed" in precision
    connector = [] if system.context is None else [system.context.connector]
    tower = [] if system.context is None else [system.context.tower]
    # A true half precision converts the model and the connector, and what lies in fewer bits stays.
    kept = 2 if precision.endswith("16-true") else None
    counts = [_bytes(part, kept) for part in (system.model, *connector)]
    towers = [_bytes(part, None) for part in tower]
    encoders = sum(c[1] + c[2] for c in towers) + sum(_bytes(system.codec, None))
    if system.idle == "offload":  # they visit when no activations are held
        encoders = sum(c[1] + c[2] for c in towers if c[0])
    states, temporaries = optimizer_numbers(system.make_optimizer)
    width = backbone.spec.width
    sizes = BlockSizes(tokens, context, width, ffn_width(backbone), backbone.heads, number)
    channels = 1.0
    for size in latents:
        channels *= size
    return Holding(
        trained=sum(c[0] for c in (*counts, *towers)),
        frozen=sum(c[1] for c in counts),
        stored=sum(c[2] for c in counts),
        encoders=encoders,
        block=sum(_bytes(backbone.blocks[0], 2 if mixed else kept)[:2]),
        states=states,
        temporaries=temporaries,
        sizes=sizes,
        reads=reads_of(backbone.blocks[0], mixed),
        # Latents, noise, prediction, their loss in float32; tokens twice packed and in the head.
        outside=(8 * 4 * channels + 2 * context * width * number, 4 * tokens * width * number),
    )


def optimizer_numbers(make: Callable[[Any], Any]) -> tuple[float, float]:
    """What an optimizer keeps, found by a step of a small matrix.

    Args:
        make: makes it from parameters.

    Returns:
        Numbers kept for each number that trains, and those it takes besides in a step: one where
        it treats all parameters together, as torch's do on CUDA unless they are fused.
    """
    with torch.device("cpu"):
        weight = nn.Parameter(torch.zeros(16, 16))
        weight.grad = torch.zeros(16, 16)
        optimizer = make([weight])
        optimizer.step()
    inner = getattr(optimizer, "halves", [optimizer])
    tensors = [
        value
        for each in inner
        for state in each.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    defaults = inner[0].defaults
    together = not defaults.get("fused") and defaults.get("foreach") is not False
    return sum(t.numel() for t in tensors) / weight.numel(), float(together and bool(tensors))


def _bytes(module: nn.Module, size: int | None) -> tuple[float, float, float]:
    """Bytes of what trains, of what does not, and of what is stored in fewer bits.

    Args:
        module: on any device.
        size: bytes a number of the first two; None is their own.
    """
    found = {True: 0.0, False: 0.0}
    for parameter in module.parameters():
        each = parameter.element_size() if size is None else size
        found[parameter.requires_grad] += parameter.numel() * each
    layers = [layer for layer in module.modules() if isinstance(layer, StoredLinear)]
    stored = sum(t.numel() * t.element_size() for layer in layers for t in layer.stored)
    return found[True], found[False], float(stored)
