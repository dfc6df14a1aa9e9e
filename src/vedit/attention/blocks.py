"""Self-attention by segments, as blocks of queries that share their keys."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vedit.tokens import AttentionLayout


class Block(NamedTuple):
    """Queries that share their keys.

    Attributes:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width).
        v: (B, M, heads, head width).
        valid: (B, M) bool, False where a key is padding; None if all count.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    valid: Tensor | None


def split_into_blocks(
    q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout | None, valid: Tensor | None
) -> list[Block]:
    """One block for each run of neighbouring segments that see the same ones.

    Args:
        q: (B, N, heads, head width).
        k: (B, M, heads, head width); M = N where `layout` restricts who sees whom and names no
            other keys.
        v: (B, M, heads, head width).
        layout: segments and whom each sees; None or `sees=None` makes a single block.
        valid: (B, M) bool, False where a key is padding.

    Returns:
        Blocks whose queries, one after the other, are `q`. Nothing is copied where the segments
        that a block sees follow one another, as those of one sample among several do.
    """
    if layout is None or layout.sees is None:
        return [Block(q, k, v, valid)]
    starts = _starts(layout.lengths)
    key_starts = starts if layout.keys is None else _starts(layout.keys)
    blocks, first = [], 0
    for g, seen in enumerate(layout.sees):
        last = g + 1 == len(layout.sees)
        if not last and layout.sees[g + 1] == seen:
            continue
        queries = q[:, starts[first] : starts[g + 1]]
        runs = _runs(seen, key_starts)
        keys, values = _seen(k, runs), _seen(v, runs)
        blocks.append(Block(queries, keys, values, None if valid is None else _seen(valid, runs)))
        first = g + 1
    return blocks


def _starts(lengths: Sequence[int]) -> list[int]:
    """First token of each segment, and the end of the last."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def _runs(seen: Sequence[int], starts: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of the tokens of those segments, neighbours joined."""
    runs: list[tuple[int, int]] = []
    for i, g in enumerate(seen):
        if i and seen[i - 1] == g - 1:
            runs[-1] = (runs[-1][0], starts[g + 1])
        else:
            runs.append((starts[g], starts[g + 1]))
    return runs


def _seen(x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    parts = [x[:, start:end] for start, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def opened(block: Block) -> Block:
    """The block with its first key shown to the samples that would have none.

    A softmax over no key is not a number, and the kernels disagree on what to make of it.
    """
    assert block.valid is not None
    lacking = ~block.valid.any(1, keepdim=True)
    shown = torch.cat([block.valid[:, :1] | lacking, block.valid[:, 1:]], 1)
    return block._replace(valid=shown)


def silenced(out: Tensor, blocks: list[Block]) -> Tensor:
    """The result (B, N, heads, head width), zero where `opened` showed a key."""
    heard = [
        block.valid.any(1, keepdim=True).expand(-1, block.q.shape[1])
        for block in blocks
        if block.valid is not None
    ]
    return out * torch.cat(heard, 1)[..., None, None]
