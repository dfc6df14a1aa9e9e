"""A trained backbone as diffusers' `WanTransformer3DModel` holds it."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vedit.backbones.blocks import CrossBlock, DualCrossBlock
from vedit.backbones.wan import WanDiT
from vedit.conditioning.add import ConcatChannels
from vedit.conditioning.embed import PatchEmbed
from vedit.context.clip import IMAGE_EMBEDDER
from vedit.context.image_embedder import ImageEmbedder
from vedit.context.umt5 import TEXT_EMBEDDER, TextProjection
from vedit.errors import ConfigError
from vedit.finetune.lora import merge
from vedit.folders import resolve_folder
from vedit.system import EditSystem
from vedit.weights import tensors

Connector = TypeVar("Connector", bound=nn.Module)
KNOWN = (CrossBlock, DualCrossBlock)
"""Blocks that other tools have: those of text-to-video and of image-to-video models."""


def merge_adapters(system: EditSystem) -> None:
    """Add every adapter of a system to the weights it adapts, in place.

    Args:
        system: built, with its trained weights.
    """
    assert system.model is not None
    parts = [system.model.backbone, system.model.injections]
    if system.context is not None:
        parts += [system.context.tower, system.context.connector]
    for part in parts:
        merge(part)


def own_backbone(system: EditSystem) -> WanDiT:
    """The backbone, whatever its blocks are.

    Args:
        system: built.

    Returns:
        A Wan transformer.

    Raises:
        ConfigError: if it is another one.
    """
    assert system.model is not None
    backbone = system.model.backbone
    if not isinstance(backbone, WanDiT):
        raise ConfigError(
            f"model.backbone: {type(backbone).__name__} has no counterpart in other tools; only "
            "WanDiT is exported"
        )
    return backbone


def backbone_of(system: EditSystem) -> WanDiT:
    """The backbone, if other tools have one like it.

    Args:
        system: built.

    Returns:
        A Wan transformer with Wan's blocks.

    Raises:
        ConfigError: if it is another one, or has blocks of our own.
    """
    backbone = own_backbone(system)
    block = type(backbone.blocks[0])
    if block not in KNOWN:
        names = " and ".join(known.__name__ for known in KNOWN)
        raise ConfigError(
            f"model.backbone.init_args.block: {block.__name__} has no counterpart in other tools, "
            f"which know {names}; --format vedit writes a folder that vedit reads, and --format "
            "lora the adapter, if one trained"
        )
    return backbone


def joined_source(system: EditSystem) -> PatchEmbed | None:
    """The embedding of a source that is concatenated to the channels of the target.

    Args:
        system: built.

    Returns:
        The embedding, which is the second half of a convolution over 2C channels; None if the
        source enters otherwise or not at all.
    """
    assert system.model is not None
    source = dict(system.model.injections.items()).get("source")
    if not isinstance(source, ConcatChannels) or source.segment != "target":
        return None
    return source.embed if isinstance(source.embed, PatchEmbed) else None


def transformer_config(system: EditSystem) -> dict[str, Any]:
    """The ``config.json`` of the exported transformer.

    Args:
        system: built, its adapters merged.

    Returns:
        Arguments of `WanTransformer3DModel`.

    Raises:
        ConfigError: if the backbone has no counterpart.
    """
    backbone = backbone_of(system)
    spec, block = backbone.spec, backbone.blocks[0]
    assert isinstance(block, CrossBlock)
    channels = spec.latent_channels
    return {
        "num_layers": spec.blocks,
        "num_attention_heads": backbone.heads,
        "attention_head_dim": backbone.head_width,
        "ffn_dim": block.ffn.net[2].in_features,
        "in_channels": 2 * channels if joined_source(system) is not None else channels,
        "out_channels": backbone.proj_out.out_features // math.prod(spec.patch),
        "text_dim": spec.text_width,
        "freq_dim": backbone.condition_embedder.freq_dim,
        "patch_size": list(spec.patch),
        "cross_attn_norm": not isinstance(block.norm2, torch.nn.Identity),
        "qk_norm": "rms_norm_across_heads",
        "eps": backbone.eps,
        **_image_branch(system, spec.width if isinstance(block, DualCrossBlock) else None),
    }


def _image_branch(system: EditSystem, width: int | None) -> dict[str, Any]:
    """What the config says of a second branch of cross-attention and of what feeds it."""
    if width is None:
        return {}
    found: dict[str, Any] = {"added_kv_proj_dim": width}
    if (embedder := _connector(system, ImageEmbedder)) is not None:
        found["image_dim"] = embedder.norm1.normalized_shape[0]
        if embedder.pos_embed is not None:
            found["pos_embed_seq_len"] = embedder.pos_embed.shape[1]
    return found


def transformer_tensors(system: EditSystem) -> dict[str, Tensor]:
    """The weights of the exported transformer, by diffusers' names.

    A source concatenated to the channels becomes the second half of the input convolution; the
    text projection and the image embedder come from the context encoder. Where it has no image
    embedder of Wan's, the second branch is there and what feeds it is not.

    Args:
        system: built, its adapters merged.

    Returns:
        Name to tensor.

    Raises:
        ConfigError: if the backbone has no counterpart.
    """
    backbone = backbone_of(system)
    block = backbone.blocks[0]
    found = {name: value.detach() for name, value in backbone.state_dict().items()}
    if (source := joined_source(system)) is not None:
        name = "patch_embedding.weight"
        second = dict(source.named_parameters())
        (weight,) = (value for key, value in second.items() if key.endswith("weight"))
        found[name] = torch.cat([found[name], weight.detach()], dim=1)
    images = _connector(system, ImageEmbedder) if isinstance(block, DualCrossBlock) else None
    state = {} if images is None else images.state_dict()
    found |= {IMAGE_EMBEDDER + name: value.detach() for name, value in state.items()}
    return {**found, **_text_projection(system, backbone)}


def own_tensors(system: EditSystem) -> dict[str, Tensor]:
    """The weights of the backbone as it is, with the text projection if there is one.

    Args:
        system: built, its adapters merged.

    Returns:
        Name to tensor, as `WanDiT` and `UMT5` load them.

    Raises:
        ConfigError: if the backbone is no `WanDiT`.
    """
    found = {name: value.detach() for name, value in own_backbone(system).state_dict().items()}
    if (own := _connector(system, TextProjection)) is not None:
        found |= {TEXT_EMBEDDER + name: v.detach() for name, v in own.state_dict().items()}
    return found


def _connector(system: EditSystem, kind: type[Connector]) -> Connector | None:
    """The connector of a kind that the context encoder has, or one of the encoders inside it."""
    if system.context is None:
        return None
    connector = system.context.connector
    parts = connector.values() if isinstance(connector, nn.ModuleDict) else [connector]
    return next((part for part in parts if isinstance(part, kind)), None)


def _text_projection(system: EditSystem, backbone: WanDiT) -> dict[str, Tensor]:
    """That of the context encoder, or else of the pretrained weights, or else zeros."""
    if (own := _connector(system, TextProjection)) is not None:
        return {TEXT_EMBEDDER + name: v.detach() for name, v in own.state_dict().items()}
    if backbone.weights is not None:
        found = tensors(resolve_folder(backbone.weights), prefix=TEXT_EMBEDDER)
        if found:
            return {TEXT_EMBEDDER + name: value for name, value in found.items()}
    empty = TextProjection(backbone.spec.text_width, backbone.spec.width).state_dict()
    return {TEXT_EMBEDDER + name: torch.zeros_like(value) for name, value in empty.items()}
