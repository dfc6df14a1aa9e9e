"""Which activations of a block are computed again in the backward pass instead of being kept.

Chosen by `model.backbone.init_args.recompute`; null keeps everything. What a strategy saves and
what it costs is in `vedit.backbones.flops` and in docs/scaling.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from vedit.backbones.activations import Kept
from vedit.backbones.flops import Flops
from vedit.backbones.layers import Surroundings
from vedit.backbones.offload import Host
from vedit.backbones.run_again import run_again
from vedit.errors import ConfigError


class Recompute(ABC):
    """A way to trade memory for time, block by block.

    It changes how modules inside a block are called, not their parameters or names, and traces
    under `torch.compile` of a block.
    """

    @abstractmethod
    def apply(self, block: nn.Module) -> None:
        """Change how a block keeps its activations, once, before it is compiled or sharded.

        Args:
            block: called with tokens (B, N, D) and `Surroundings`.

        Raises:
            ConfigError: if the block lacks the part that the strategy is about.
        """

    @abstractmethod
    def again(self, forward: Flops) -> float:
        """Operations of the forward pass that the backward pass repeats.

        Args:
            forward: of one sample, over the blocks that the strategy acts on.

        Returns:
            Floating-point operations for one sample.
        """

    @abstractmethod
    def kept(self, block: Kept) -> float:
        """Bytes that stay on the device until the backward pass.

        Args:
            block: what a block keeps if nothing is computed again.

        Returns:
            Of one block that the strategy acts on.
        """

    def at(self, index: int) -> Recompute | None:
        """The strategy of the block with that index, None if it keeps everything."""
        return self

    def call(self, block: nn.Module, tokens: Tensor, around: Surroundings) -> Tensor:
        """Run a block; never inside a compiled region.

        Args:
            block: after `apply`.
            tokens: (B, N, D).
            around: what it reads besides.

        Returns:
            (B, N, D).
        """
        out: Tensor = block(tokens, around)
        return out


class RecomputeBlocks(Recompute):
    """Keep the input of each block and compute the whole block again."""

    def apply(self, block: nn.Module) -> None:
        """Checkpoint the block."""
        run_again(block)

    def again(self, forward: Flops) -> float:
        """The forward pass, up to the last thing that the backward pass reads."""
        return forward.total - forward.unread

    def kept(self, block: Kept) -> float:
        """The input."""
        return block.input


class RecomputeFeedForward(Recompute):
    """Keep everything but the hidden activations of the feed-forward layers.

    They are f wide, several times the width of a block, and cost one product out of two: the
    second one's result is not needed.
    """

    def apply(self, block: nn.Module) -> None:
        """Checkpoint the block's feed-forward layer, `ffn`."""
        layer = getattr(block, "ffn", None)
        if not isinstance(layer, nn.Module):
            raise ConfigError(
                f"recompute: RecomputeFeedForward needs blocks with a layer 'ffn', "
                f"{type(block).__name__} has none; RecomputeBlocks takes any"
            )
        run_again(layer)

    def again(self, forward: Flops) -> float:
        """The first of the two products of the feed-forward layers."""
        return forward.feed_forward / 2

    def kept(self, block: Kept) -> float:
        """All that is not f wide, and the input of the layers."""
        return block.total - block.hidden + block.before_hidden


class KeepAttention(Recompute):
    """Compute everything again but self-attention, whose result is kept.

    Kept per block are its input, the result of the attention kernel and the kernel's logarithms of
    sums of exponentials. At long sequences the kernel is most of the forward pass, so that this
    costs little time. Attention to fewer keys than there are queries (a text) is computed again: it
    costs less than keeping its result.

    Kernels are known by their operator's name: torch's own fused ones, FlexAttention, and those
    that flash-attn and xformers register. The plain products that a CPU prefers for short
    sequences are no kernel and are computed again.
    """

    def apply(self, block: nn.Module) -> None:
        """Checkpoint the block, except for the attention kernel."""
        run_again(block, partial(create_selective_checkpoint_contexts, keep_self_attention))

    def again(self, forward: Flops) -> float:
        """As for whole blocks, without the products of self-attention."""
        self_attention = forward.attention - forward.cross_attention
        return forward.total - forward.unread - self_attention

    def kept(self, block: Kept) -> float:
        """The input, the kernel's result and its logarithms of sums."""
        return block.input + block.attention


class OffloadInputs(RecomputeBlocks):
    """Compute whole blocks again from inputs that wait in the memory of the host.

    On CUDA the copies go through pinned memory on a stream of their own, beside the computation;
    the backward pass fetches the input of the next block while it works on one. On a CPU there is
    nowhere to go, and this is `RecomputeBlocks`.
    """

    def __init__(self) -> None:
        self._host = Host()

    def call(self, block: nn.Module, tokens: Tensor, around: Surroundings) -> Tensor:
        """Run the block, and send its input to the host if the backward pass needs it."""
        if not torch.is_grad_enabled():
            return super().call(block, tokens, around)
        with self._host.holding(tokens):
            return super().call(block, tokens, around)

    def kept(self, block: Kept) -> float:
        """Nothing; the host holds what `RecomputeBlocks` keeps."""
        return 0.0


class EveryKth(Recompute):
    """Apply a strategy to the first block and every k-th after it; the others keep everything.

    Args:
        k: 1 is every block.
        recompute: the strategy.

    Raises:
        ConfigError: if k is less than 1.
    """

    def __init__(
        self,
        k: int = 2,
        recompute: Recompute = RecomputeBlocks(),  # noqa: B008 (has no state)
    ) -> None:
        if k < 1:
            raise ConfigError(f"recompute: EveryKth takes k of 1 or more, got {k}")
        self.k, self.recompute = k, recompute

    def at(self, index: int) -> Recompute | None:
        """The strategy at multiples of k."""
        return self.recompute.at(index // self.k) if index % self.k == 0 else None

    def apply(self, block: nn.Module) -> None:
        """As the strategy does."""
        self.recompute.apply(block)

    def again(self, forward: Flops) -> float:
        """As the strategy does, over the blocks it acts on."""
        return self.recompute.again(forward)

    def kept(self, block: Kept) -> float:
        """As the strategy does."""
        return self.recompute.kept(block)


def spread(recompute: Recompute | None, blocks: nn.ModuleList) -> list[Recompute | None]:
    """Apply a strategy to the blocks of a backbone.

    Args:
        recompute: None keeps everything.
        blocks: in their order.

    Returns:
        The strategy of each block.

    Raises:
        ConfigError: if it does not suit them.
    """
    each = [None if recompute is None else recompute.at(i) for i in range(len(blocks))]
    for strategy, block in zip(each, blocks, strict=True):
        if strategy is not None:
            strategy.apply(block)
    return each


def kept_bytes(each: Sequence[Recompute | None], block: Kept) -> float:
    """Bytes that all blocks keep, and what one takes besides when it is computed again.

    Args:
        each: the strategy of each block.
        block: what a block keeps if nothing is computed again.

    Returns:
        Bytes at the moment when the block that gives up most is whole again.
    """
    kept = [block.total if one is None else one.kept(block) for one in each]
    return sum(kept) + max((block.total - one for one in kept), default=0.0)


def recomputed_flops(each: Sequence[Recompute | None], forward: Flops) -> float:
    """Operations that the backward pass repeats.

    Args:
        each: the strategy of each block.
        forward: of one sample, over all blocks.

    Returns:
        Floating-point operations for one sample.
    """
    one = forward.scaled(1 / max(len(each), 1))
    return sum(strategy.again(one) for strategy in each if strategy is not None)


def keep_self_attention(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """The policy of `KeepAttention` for `create_selective_checkpoint_contexts`.

    Args:
        ctx: unused.
        op: an operator of a dispatcher.
        *args: what it is given; queries, keys and values come first.
        **kwargs: what it is given by name.

    Returns:
        Whether its result is kept.
    """
    if not is_attention_kernel(op):
        return CheckpointPolicy.PREFER_RECOMPUTE
    sizes = [x.numel() for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    kept = len(sizes) > 1 and sizes[1] >= sizes[0]
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def is_attention_kernel(op: Any) -> bool:
    """Whether an operator is the forward pass of a fused attention kernel.

    Args:
        op: an operator of a dispatcher, such as `aten._scaled_dot_product_flash_attention.default`.

    Returns:
        True for torch's, FlexAttention's, flash-attn's and xformers' kernels.
    """
    name = op.name() if callable(getattr(op, "name", None)) else getattr(op, "__name__", str(op))
    name = str(name).lower()
    backward = "backward" in name or "bwd" in name
    return not backward and any(part in name for part in ("attention", "attn", "flash"))
