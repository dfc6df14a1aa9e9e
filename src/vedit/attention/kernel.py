"""What an attention kernel is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vedit.attention.blocks import Block

Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""q, k, v (B, N or M, heads, head width) and (B, M) bool or None to (B, N, heads, head width)."""

Run = Callable[[list[Block]], Tensor]
"""Attends within each block; the results follow one another along the tokens."""


@dataclass(frozen=True)
class Kernel:
    """An attention implementation and why it was chosen.

    Attributes:
        name: such as "sdpa"; "cudnn + flash4" if runs of different lengths have one of their own.
        reason: one line for logs and `vedit describe`.
        run: attends within each block; the results follow one another along the tokens.
    """

    name: str
    reason: str
    run: Run


def block_by_block(dense: Dense) -> Run:
    """Run a dense kernel on one block after the other."""

    def run(blocks: list[Block]) -> Tensor:
        outs = [dense(q, k, v, valid) for q, k, v, valid in blocks]
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    return run


def at_once(runs: Run, dense: Dense) -> Run:
    """Run several blocks at once, and by a dense kernel what is one block or has padding.

    Lengths of padding are data: to leave it out, the host would have to wait for the device in
    every layer. A mask costs less.

    Args:
        runs: takes blocks without padding.
        dense: takes all else.

    Returns:
        Both as one.
    """
    one_by_one = block_by_block(dense)

    def run(blocks: list[Block]) -> Tensor:
        if len(blocks) == 1 or any(block.valid is not None for block in blocks):
            return one_by_one(blocks)
        return runs(blocks)

    return run


def unless_padded(dense: Dense, masked: Dense) -> Dense:
    """A dense kernel that leaves what has padding to another one."""

    def run(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        return (dense if valid is None else masked)(q, k, v, valid)

    return run
