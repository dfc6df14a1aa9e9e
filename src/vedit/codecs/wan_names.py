"""The names that Wan's own code gives its video autoencoder, and those that diffusers gives it.

Source: `Wan-Video/Wan2.1` and `Wan2.2` (`wan/modules/vae.py`, `vae2_2.py`), diffusers'
`AutoencoderKLWan`. Wan 2.1 numbers the layers of its encoder and decoder through; Wan 2.2 nests
them by level, and the last layer of a level changes the resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

WHOLE = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "encoder.head.0": "encoder.norm_out",
    "decoder.head.0": "decoder.norm_out",
    "encoder.head.2": "encoder.conv_out",
    "decoder.head.2": "decoder.conv_out",
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}

SHARED = (
    "dim_mult",
    "num_res_blocks",
    "attn_scales",
    "temperal_downsample",
    "dropout",
    "latents_mean",
    "latents_std",
)
"""Sizes that both name alike."""


def is_original(names: Mapping[str, Any]) -> bool:
    """Whether a checkpoint bears the names of Wan's own code.

    Args:
        names: its tensors by name.

    Returns:
        True for both Wan 2.1 and 2.2.
    """
    return "decoder.middle.0.residual.0.gamma" in names


def is_nested(names: Mapping[str, Any]) -> bool:
    """Whether original names nest layers by level, as those of Wan 2.2 do.

    Args:
        names: tensors by original name.

    Returns:
        True for Wan 2.2.
    """
    return any(name.startswith("encoder.downsamples.0.downsamples.") for name in names)


def to_diffusers(tensors: Mapping[str, Value], num_res_blocks: int) -> dict[str, Value]:
    """Rename an autoencoder from Wan's own names to those of `AutoencoderKLWan`.

    Args:
        tensors: by original name, of Wan 2.1 or 2.2.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.

    Returns:
        The same tensors by diffusers' names; an unknown name is left as it is, so that loading
        strictly reports it.
    """
    nested = is_nested(tensors)
    return {_renamed(name, num_res_blocks, nested): value for name, value in tensors.items()}


def _renamed(name: str, num_res_blocks: int, nested: bool) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{kind}"
    if found := re.fullmatch(r"(encoder|decoder)\.middle\.([012])\.(.+)", layer):
        half, index, rest = found.groups()
        return f"{half}.mid_block.{MIDDLE[index]}.{RESIDUAL.get(rest, rest)}.{kind}"
    if nested:
        pattern = r"(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)"
        if found := re.fullmatch(pattern, layer):
            half, way, level, index, rest = found.groups()
            inside = f"resnets.{index}" if rest in RESIDUAL else f"{way}sampler"
            return f"{half}.{way}_blocks.{level}.{inside}.{RESIDUAL.get(rest, rest)}.{kind}"
        return name
    if found := re.fullmatch(r"encoder\.downsamples\.(\d+)\.(.+)", layer):
        index, rest = found.groups()
        return f"encoder.down_blocks.{index}.{RESIDUAL.get(rest, rest)}.{kind}"
    if found := re.fullmatch(r"decoder\.upsamples\.(\d+)\.(.+)", layer):
        level, index = divmod(int(found[1]), num_res_blocks + 2)  # one upsampler per level
        inside = f"resnets.{index}" if index <= num_res_blocks else "upsamplers.0"
        return f"decoder.up_blocks.{level}.{inside}.{RESIDUAL.get(found[2], found[2])}.{kind}"
    return name


def sizes_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of an autoencoder with original names, by diffusers' names.

    Args:
        config: a ``config.json`` that names them as Wan's code does (``dim``, ``attn_scales``).
        shapes: of its tensors by original name; they tell what the config does not.

    Returns:
        Arguments of `AutoencoderKLWan`.
    """
    sizes = {name: config[name] for name in SHARED if name in config}
    base, channels = shapes["encoder.conv1.weight"][:2]
    widest, sizes["z_dim"] = shapes["decoder.conv1.weight"][:2]
    decoder = widest // sizes.get("dim_mult", (1, 2, 4, 4))[-1]
    sizes |= {"base_dim": base, "is_residual": is_nested(shapes)}
    sizes |= {"in_channels": channels, "out_channels": channels}
    if decoder != base:
        sizes["decoder_base_dim"] = decoder
    if channels > 3:  # pixels are folded into channels, p x p of them
        sizes["patch_size"] = round((channels / 3) ** 0.5)
    return sizes
