"""How much memory a training needs on one device, by formula, before it starts.

Peak = weights + optimizer states + moving average + max(activations, gradients, gradients +
temporaries of the step) + workspace, since the backward pass frees a block's activations as it
makes its gradients. What blocks keep is in `vedit.backbones.activations`. Encoders count with their
weights alone: what they take while they encode is not known here, and nothing where caches serve
their results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vedit.backbones.activations import kept_by, shared, workspace
from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    OffloadInputs,
    Recompute,
    RecomputeBlocks,
    RecomputeFeedForward,
    kept_bytes,
)
from vedit.callbacks.holding import Holding

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
class MemoryEstimate:
    """Bytes on one device.

    Attributes:
        weights: of the model, its own pieces and the two blocks gathered at a time.
        encoders: of the codec and the frozen tower.
        optimizer: its states.
        gradients: of what trains.
        step: what the optimizer takes for a moment, or else the average after it.
        activations: what is kept until the backward pass.
        workspace: what the backward pass takes for a moment.
        accumulates: whether gradients are there while activations are made.
        average: moving average of what trains; nothing where there is none, or on the host.
    """

    weights: float
    encoders: float
    optimizer: float
    gradients: float
    step: float
    activations: float
    workspace: float
    accumulates: bool = False
    average: float = 0.0

    @property
    def peak(self) -> float:
        """The most that is held at once."""
        before = self.gradients if self.accumulates else 0.0
        passing = max(before + self.activations, self.gradients) + self.workspace
        lasting = self.weights + self.encoders + self.optimizer + self.average
        return lasting + max(passing, self.gradients + self.step)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in GiB."""
        named = {k: v / GIB for k, v in asdict(self).items() if k != "accumulates"}
        return {**named, "peak": self.peak / GIB}

    def text(self) -> str:
        """One line for people."""
        parts = ["weights", "encoders", "optimizer", "gradients", "activations", "workspace"]
        if self.average:
            parts.insert(3, "average")
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
        step=max(trained * holding.temporaries, holding.widened / spread.pieces),
        activations=keep * kept_bytes(recompute, kept_by(sizes, holding.reads))
        + spread.batch * (whole + split / spread.context),
        workspace=workspace(sizes),
        accumulates=spread.accumulates,
        average=holding.average / spread.pieces,
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
