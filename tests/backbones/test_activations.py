"""The formulas for what blocks keep, against what autograd is seen to keep."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.backbones.test_recompute import held_by_selection, saved_bytes, surroundings
from torch import Tensor

from vedit.backbones.activations import BlockSizes, Reads, kept_by, reads_of, shared
from vedit.backbones.blocks import CrossBlock, UnifiedBlock
from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    OffloadInputs,
    Recompute,
    RecomputeBlocks,
    RecomputeFeedForward,
    kept_bytes,
)
from vedit.backbones.wan import WanDiT
from vedit.finetune.lora import LoRA
from vedit.tokens import Context, TokenSequence

CASES: dict[str, Recompute | None] = {
    "none": None,
    "feed_forward": RecomputeFeedForward(),
    "keep_attention": KeepAttention(),
    "every_second": EveryKth(2, RecomputeBlocks()),
    "blocks": RecomputeBlocks(),
    "offload": OffloadInputs(),
}
SHAPES = {
    "wide": ((3, 12, 16), 130, 64, 2, 200),  # latents (t, h, w), L, D, H, f
    "long": ((5, 20, 24), 256, 32, 4, 128),
    # In bfloat16 a CPU takes its fused kernel from 513 keys on.
    "half": ((5, 24, 24), 520, 32, 2, 128),
}
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]


def kept_in_blocks(
    recompute: Recompute | None,
    shape: str,
    dtype: torch.dtype,
    lora: Sequence[str] = (),
    block: Any = CrossBlock,
) -> tuple[float, float]:
    """Bytes that three blocks are seen to keep, and by formula."""
    grid, context, width, heads, hidden = SHAPES[shape]
    torch.manual_seed(0)
    model = WanDiT(
        num_layers=3,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        ffn_dim=hidden,
        in_channels=4,
        freq_dim=16,
        block=block,
        recompute=copy.deepcopy(recompute),
    )
    if lora:
        LoRA(rank=4, targets=list(lora)).apply(model)
    model.to(dtype)
    text = torch.randn(1, context, width).to(dtype) if model.spec.cross_attention else None
    around = surroundings(model, sequence(model, torch.randn(1, 4, *grid).to(dtype), text))
    x = torch.randn(1, len(around.rotation), width).to(dtype).requires_grad_()
    others = [*model.parameters(), *([] if text is None else [text])]
    others += [around.modulation, around.rotation]
    with held_by_selection() as held, saved_bytes() as saved:
        y = x
        for each, strategy in zip(model.blocks, model.recompute, strict=True):
            y = each(y, around) if strategy is None else strategy.call(each, y, around)
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held()}
    found |= saved
    for other in others:
        found.pop(other.untyped_storage().data_ptr(), None)
    read = 0 if text is None else context
    sizes = BlockSizes(x.shape[1], read, width, hidden, heads, dtype.itemsize)
    kept = kept_by(sizes, reads_of(model.blocks[0]))
    by_formula = [kept.total if one is None else one.kept(kept) for one in model.recompute]
    return sum(found.values()), sum(by_formula)


def sequence(model: Any, x: Tensor, text: Tensor | None) -> TokenSequence:
    start = TokenSequence.of_target(x, torch.rand(1), model.embed)
    return start if text is None else start.with_context(Context(text))


NAMES = [name for name in CASES if name != "offload"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_what_the_formula_says(name: str, shape: str) -> None:
    dtype = torch.bfloat16 if shape == "half" else torch.float32
    measured, formula = kept_in_blocks(CASES[name], shape, dtype)
    assert formula == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("shape", ["wide", "half"])
@pytest.mark.parametrize("targets", [ADAPTED, [*ADAPTED, "net.0.proj", "net.2"]], ids=len)
@pytest.mark.parametrize("name", NAMES)
def test_under_adapters_too(name: str, targets: list[str], shape: str) -> None:
    dtype = torch.bfloat16 if shape == "half" else torch.float32
    measured, formula = kept_in_blocks(CASES[name], shape, dtype, targets)
    assert formula == pytest.approx(measured, rel=0.05)


def test_blocks_without_cross_attention_keep_less() -> None:
    measured, formula = kept_in_blocks(None, "long", torch.float32, (), UnifiedBlock)
    assert formula == pytest.approx(measured, rel=0.05)


def test_one_block_is_whole_when_it_is_computed_again() -> None:
    block = kept_by(BlockSizes(1000, 0, 64, 256, 4), Reads())
    whole, once = (kept_bytes([each] * 4, block) for each in (None, RecomputeBlocks()))
    assert whole == 4 * block.total
    assert once == 3 * block.input + block.total
    assert kept_bytes([OffloadInputs()] * 4, block) == block.total


def test_ranks_that_share_a_sequence_keep_a_part_each() -> None:
    sizes = BlockSizes(1001, 256, 64, 256, 4)
    assert shared(sizes, 4).tokens == 251
    assert shared(sizes, 4).context == 256
