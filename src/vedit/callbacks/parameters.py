"""Parameters of an editor, part by part, and those of the transformer it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vedit.backbones.base import Backbone, BackboneSpec
from vedit.backbones.blocks import BlockShape, CrossBlock
from vedit.backbones.wan import WanDiT
from vedit.finetune.stored_linear import StoredLinear


@dataclass(frozen=True)
class PartRow:
    """Parameters of one part."""

    name: str
    trainable: int
    frozen: int


def part_rows(system: Any) -> tuple[PartRow, ...]:
    """Trainable and frozen parameters of each part of a system.

    Args:
        system: an `EditSystem` that is built, on the meta device or not.

    Returns:
        A row for the backbone, each injection, both halves of the context encoder, and the codec.
    """
    parts: dict[str, nn.Module] = {"model.backbone": system.model.backbone}
    parts |= {f"model.injections.{n}": m for n, m in system.model.injections.items()}
    if system.context is not None:
        parts |= {"context.tower": system.context.tower}
        parts |= {"context.connector": system.context.connector}
    parts |= {"codec": system.codec}
    return tuple(_part_row(name, module) for name, module in parts.items())


def published_parameters(backbone: Backbone) -> int:
    """Parameters of the pretrained transformer, as its publisher counts them.

    Adapters and branches that a block adds do not count; Wan's text projection does, whichever
    context encoder there is here, and so does the cross-attention that a block leaves out.

    Args:
        backbone: built, on the meta device or not.

    Returns:
        Their number: 5.000 B for Wan2.2-TI2V-5B, 14.288 B for Wan2.1-T2V-14B.
    """
    if not isinstance(backbone, WanDiT):
        return sum(_sizes(backbone).values())
    own, pretrained = _sizes(backbone.blocks[0]), _sizes(_pretrained_block(backbone))
    left_out = sum(size for name, size in pretrained.items() if name not in own)
    added = sum(size for name, size in own.items() if name not in pretrained)
    total = sum(_sizes(backbone).values()) + len(backbone.blocks) * (left_out - added)
    return total + text_projection_parameters(backbone.spec)


def text_projection_parameters(spec: BackboneSpec) -> int:
    """Parameters of two linear layers from the width of text features to that of the backbone."""
    return (spec.text_width + 1 + spec.width + 1) * spec.width


def ffn_width(backbone: Backbone) -> int:
    """Hidden width of the feed-forward layers: the wider side of their first matrix."""
    for name, layer in backbone.blocks[0].named_modules():
        if "ffn" in name and isinstance(layer, nn.Linear) and not _is_adapter(name):
            return max(layer.in_features, layer.out_features)
    return 4 * backbone.spec.width


def _pretrained_block(backbone: WanDiT) -> CrossBlock:
    width = backbone.spec.width
    with torch.device("meta"):
        return CrossBlock(BlockShape(width, backbone.heads, ffn_width(backbone)))


def _sizes(module: nn.Module) -> dict[str, int]:
    """Parameters by name, adapters left out and what they wrap under its own name."""
    return {
        name.replace(".base_layer", ""): size
        for name, size, _ in _numbers(module)
        if not _is_adapter(name)
    }


def _numbers(module: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Name, size and whether it trains, of each parameter and of each weight in fewer bits."""
    for name, parameter in module.named_parameters():
        yield name, parameter.numel(), parameter.requires_grad
    for name, layer in module.named_modules():
        if isinstance(layer, StoredLinear):
            yield f"{name}.weight".lstrip("."), layer.in_features * layer.out_features, False


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _part_row(name: str, module: nn.Module) -> PartRow:
    counts = {True: 0, False: 0}
    for _, size, trains in _numbers(module):
        counts[trains] += size
    return PartRow(name, counts[True], counts[False])
