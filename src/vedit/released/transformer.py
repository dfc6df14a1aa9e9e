"""A diffusers Wan transformer folder to the backbone that loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vedit.errors import WeightsError
from vedit.released.part import Tree, part
from vedit.weights import read_config

CLASS = "WanTransformer3DModel"
DEFAULTS: Tree = {
    "num_layers": 40,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "ffn_dim": 13824,
    "text_dim": 4096,
    "freq_dim": 256,
    "patch_size": [1, 2, 2],
    "cross_attn_norm": True,
    "eps": 1e-6,
}
"""What diffusers takes for a size that a config does not name."""


@dataclass(frozen=True)
class Transformer:
    """What the config of a transformer folder says.

    Attributes:
        folder: that holds it.
        sizes: arguments of the backbone.
        channels: C of the latents.
        joined: whether its input convolution takes 2C channels, the source behind the target.
    """

    folder: Path
    sizes: Tree
    channels: int
    joined: bool

    @property
    def backbone(self) -> Tree:
        """The backbone as a configuration names it."""
        half = {"input_half": "first"} if self.joined else {}
        sizes = {**self.sizes, "in_channels": self.channels, **half}
        return part("backbones.wan.WanDiT", **sizes, weights=str(self.folder))


def find_transformer(folder: Path) -> Transformer | None:
    """The transformer of a pipeline folder, or the one that the folder itself is.

    Args:
        folder: that may hold a model.

    Returns:
        What its config says; None if there is no transformer.

    Raises:
        WeightsError: if there is one of another kind, or one that needs what vedit has not.
    """
    for place in (folder / "transformer", folder):
        if (place / "config.json").is_file():
            config = read_config(place)
            if place == folder and config.get("_class_name") != CLASS:
                return None
            _check(place, config)
            return _transformer(place, config)
    return None


def _transformer(folder: Path, config: Tree) -> Transformer:
    sizes = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    taken = int(config.get("in_channels", 16))
    channels = int(config.get("out_channels") or taken)
    if taken not in (channels, 2 * channels):
        raise WeightsError(
            f"{folder / 'config.json'}: in_channels is {taken} for latents of {channels} channels, "
            f"expected {channels}, or {2 * channels} where the source is concatenated."
        )
    return Transformer(folder, sizes, channels, joined=taken != channels)


def _check(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "config.json"
    kind = config.get("_class_name")
    if kind != CLASS:
        raise WeightsError(f"{path}: _class_name is {kind}, expected {CLASS}.")
    norm = config.get("qk_norm", "rms_norm_across_heads")
    if norm != "rms_norm_across_heads":
        raise WeightsError(f"{path}: qk_norm is {norm}, expected rms_norm_across_heads.")
    if config.get("added_kv_proj_dim") is not None:
        raise WeightsError(
            f"{path}: added_kv_proj_dim is {config['added_kv_proj_dim']}: an image-to-video model, "
            "which is no editor by itself; name its folder as model.backbone.init_args.weights in "
            "a configuration whose `block` is vedit.backbones.blocks.DualCrossBlock."
        )
