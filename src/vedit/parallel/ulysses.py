"""One sequence on several ranks, by the heads of attention (DeepSpeed-Ulysses, arXiv 2309.14509).

Each rank of a context group holds a contiguous share of the tokens from the first block to the
head. Everything in a block but self-attention treats tokens one by one. For self-attention the
ranks exchange (own tokens, all heads) for (all tokens, own heads), attend as one rank would, and
exchange back. All of it goes through one differentiable all-to-all, so that backward passes
exchange gradients the same way.

**Why the mean of the gradients is right.** The shares are gathered in the end, so that each of C
ranks computes the same loss. A backward pass through the exchanges gives on every rank the
derivative of the *sum* of all C losses by that rank's copy of a parameter. Summed over the copies
that is C times the gradient of the loss; so the mean over ranks, which DDP and FSDP take anyway, is
the gradient itself: of parameters inside the blocks, where every rank adds what its own tokens say,
as well as of those before them, which all ranks compute alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeAlias

import torch
import torch.distributed._functional_collectives as collectives
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from vedit.errors import ConfigError

Rows: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """The contiguous share of a run of tokens that each rank of a context group holds.

    Attributes:
        group: name of the process group.
        rank: of this process in the group.
        edges: where shares begin and end: rank r holds tokens edges[r] to edges[r + 1].
    """

    group: str
    rank: int
    edges: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each rank."""
        return tuple(b - a for a, b in zip(self.edges[:-1], self.edges[1:], strict=True))

    def of(self, x: Tensor, dim: int) -> Tensor:
        """This rank's share of what all ranks hold.

        Args:
            x: with all tokens along `dim`.
            dim: the dimension of tokens.

        Returns:
            A view.
        """
        return x.narrow(dim, self.edges[self.rank], self.counts[self.rank])

    def lengths(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """How many tokens of each segment this rank holds; zero for those beyond its share.

        Args:
            lengths: tokens of each segment.

        Returns:
            As many numbers, whose sum is this rank's count.
        """
        starts = accumulate(lengths, initial=0)
        return tuple(
            self.part(start, length).counts[self.rank]
            for start, length in zip(starts, lengths, strict=False)
        )

    def runs(self, lengths: Sequence[int]) -> tuple[slice, tuple[int, ...]]:
        """The segments that this rank holds something of.

        Args:
            lengths: tokens of each segment.

        Returns:
            Which segments these are, at least one, and how many of their tokens it holds.
        """
        held = self.lengths(lengths)
        some = [i for i, length in enumerate(held) if length] or [0]
        run = slice(some[0], some[-1] + 1)
        return run, held[run]

    def part(self, start: int, length: int) -> Share:
        """The shares of some of the tokens.

        Args:
            start: the first of them.
            length: their number.

        Returns:
            Which rank holds which of those; some may hold none.
        """
        edges = tuple(min(max(edge - start, 0), length) for edge in self.edges)
        return replace(self, edges=edges)

    def to_heads(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Give away heads for tokens: (B, n, heads, w) to (B, N, heads / ranks, w).

        Args:
            *tensors: queries, keys and values of this rank's tokens, of one shape; they travel
                together.

        Returns:
            As many, of all tokens.
        """
        own, ranks = self.counts[self.rank], len(self.counts)
        x = torch.stack(tensors).unflatten(3, (ranks, -1))  # (3, B, n, ranks, heads / ranks, w)
        x = x.permute(3, 2, 0, 1, 4, 5).flatten(0, 1)  # (ranks n, 3, B, heads / ranks, w)
        x = _all_to_all(x, (own,) * ranks, self.counts, self.group)
        return x.transpose(0, 2).unbind(1)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Undo `to_heads`: (B, N, heads / ranks, w) to (B, n, heads, w)."""
        own, ranks = self.counts[self.rank], len(self.counts)
        x = _all_to_all(x.transpose(0, 1), self.counts, (own,) * ranks, self.group)
        return x.unflatten(0, (ranks, own)).permute(2, 1, 0, 3, 4).flatten(2, 3)

    def gather(self, x: Tensor) -> Tensor:
        """Collect the shares of all ranks: (B, n, D) to (B, N, D)."""
        own, ranks = self.counts[self.rank], len(self.counts)
        # Not torch's all-gather: that wants shares of one size, and has no gradient.
        copies = x.transpose(0, 1).repeat(ranks, 1, 1)
        return _all_to_all(copies, (own,) * ranks, self.counts, self.group).transpose(0, 1)


def share_of(tokens: int, heads: int, group: ProcessGroup) -> Share:
    """Divide a sequence among the ranks of a group, as evenly as it goes.

    Args:
        tokens: N, any number.
        heads: of self-attention.
        group: the context group.

    Returns:
        The shares; the first ranks hold one token more where N does not divide.

    Raises:
        ConfigError: if the heads cannot be divided among the ranks.
    """
    ranks = distributed.get_world_size(group)
    check_heads(heads, ranks)
    edges = tuple(r * (tokens // ranks) + min(r, tokens % ranks) for r in range(ranks + 1))
    return Share(group.group_name, distributed.get_rank(group), edges)


def check_heads(heads: int, degree: int) -> None:
    """Refuse a degree of context parallelism that the heads cannot be divided by.

    Args:
        heads: of self-attention.
        degree: ranks that share a sequence.

    Raises:
        ConfigError: with the nearest degrees that would do.
    """
    if heads % degree:
        fit = [d for d in range(1, heads + 1) if heads % d == 0]
        near = [max(d for d in fit if d < degree), *(d for d in fit if d > degree)][:2]
        raise ConfigError(
            f"trainer.strategy.context: the backbone's {heads} attention heads cannot be divided "
            f"among {degree} ranks; the nearest that fit: {' and '.join(map(str, near))}"
        )


@contextmanager
def own_draws(share: Share | None, device: torch.device) -> Iterator[None]:
    """Let each rank draw its own numbers inside, and leave the generators as they were.

    Ranks of a group draw alike outside, where they compute the same; inside, where each has other
    tokens, equal draws would drop the same places of every share, and unequal numbers of draws
    would set the generators apart for good.

    Args:
        share: says which rank this is; None changes nothing.
        device: where the model computes.

    Yields:
        Nothing.
    """
    if share is None:
        yield
        return
    seed = int(torch.randint(2**62, ()))
    accelerated = device.type != "cpu"
    kind = device.type if accelerated else "cuda"
    with torch.random.fork_rng([device] if accelerated else [], device_type=kind):
        torch.manual_seed(seed + share.rank)
        yield


class _AllToAll(torch.autograd.Function):
    """Send so many rows to each rank in turn, receive so many from each; backwards the reverse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: Rows, received: Rows, group: str) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _exchange(x, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(gradient, ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(x: Tensor, sent: Rows, received: Rows, group: str) -> Tensor:
    out: Tensor = _AllToAll.apply(x, sent, received, group)
    return out


def _exchange(x: Tensor, sent: Rows, received: Rows, group: str) -> Tensor:
    # Named, not as an object, and functional: so that a compiler can put it into its graph.
    name: Any = group
    out = collectives.all_to_all_single(x.contiguous(), list(received), list(sent), name)
    return collectives.wait_tensor(out)
