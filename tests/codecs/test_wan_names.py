"""Autoencoders with Wan's own names load into diffusers' class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import save_file

from vedit.codecs.wan_names import MIDDLE, RESIDUAL, WHOLE, to_diffusers
from vedit.codecs.wan_vae import WanVAE
from vedit.errors import WeightsError

WAN21: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, 0.2, 0.3, 0.4],
    "latents_std": [1.0, 2.0, 3.0, 4.0],
}
WAN22 = {
    **WAN21,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "decoder_base_dim": 8,
}


def original_name(name: str, nested: bool) -> str:
    """The way back, for autoencoders of two residual blocks a level."""
    layer, _, kind = name.rpartition(".")
    whole = {new: old for old, new in WHOLE.items()}
    parts = {new: old for old, new in RESIDUAL.items()}
    if layer in whole:
        return f"{whole[layer]}.{kind}"
    words = layer.split(".")
    if words[1] == "mid_block":
        index = {new: old for old, new in MIDDLE.items()}[".".join(words[2:4])]
        return f"{words[0]}.middle.{index}.{parts.get(words[4], words[4])}.{kind}"
    ways = {"down_blocks": "downsamples", "up_blocks": "upsamples"}
    way, level = ways[words[1]], int(words[2])
    changes = 2 if words[0] == "encoder" else 3  # where a level's resampling stands
    if nested:
        index = changes if words[3].endswith("sampler") else int(words[4])
        rest = ".".join(words[4:] if words[3].endswith("sampler") else words[5:])
        return f"{words[0]}.{way}.{level}.{way}.{index}.{parts.get(rest, rest)}.{kind}"
    if words[0] == "encoder":
        rest = ".".join(words[3:])
        return f"encoder.{way}.{level}.{parts.get(rest, rest)}.{kind}"
    index = 3 if words[3] == "upsamplers" else int(words[4])
    rest = ".".join(words[5:])
    return f"decoder.{way}.{4 * level + index}.{parts.get(rest, rest)}.{kind}"


def random_vae(sizes: dict[str, Any]) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(**sizes).requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return vae


def save_original(folder: Path, vae: AutoencoderKLWan, nested: bool) -> Path:
    """As Wan's own code names it, with a config that says what such configs say."""
    folder.mkdir(parents=True)
    tensors = {original_name(k, nested): v.contiguous() for k, v in vae.state_dict().items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    said = ("z_dim", "dim_mult", "num_res_blocks", "temperal_downsample", "latents_mean")
    config = {name: vae.config[name] for name in (*said, "latents_std")}
    config |= {"_class_name": "VAE", "dim": vae.config["base_dim"], "attn_scales": []}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_names_of_wan_21_are_those_that_diffusers_converts() -> None:
    vae = random_vae(WAN21)
    originals = {original_name(name, False): value for name, value in vae.state_dict().items()}
    converted = convert_wan_vae_to_diffusers(dict(originals))
    assert {name: id(value) for name, value in to_diffusers(originals, 2).items()} == {
        name: id(value) for name, value in converted.items()
    }


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("down_1.down_0.residual.6.bias", "encoder.down_blocks.1.resnets.0.conv2.bias"),
        ("down_1.down_0.shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("down_1.down_2.resample.1.bias", "encoder.down_blocks.1.downsampler.resample.1.bias"),
        ("up_0.up_3.time_conv.weight", "decoder.up_blocks.0.upsampler.time_conv.weight"),
        ("up_3.up_2.residual.0.gamma", "decoder.up_blocks.3.resnets.2.norm1.gamma"),
        ("decoder.middle.1.to_qkv.weight", "decoder.mid_block.attentions.0.to_qkv.weight"),
        ("conv2.weight", "post_quant_conv.weight"),
    ],
)
def test_the_names_of_wan_22(original: str, expected: str) -> None:
    half = {"d": "encoder.", "u": "decoder."}.get(original[0] if "_" in original[:5] else "", "")
    original = half + original.replace("down_", "downsamples.").replace("up_", "upsamples.")
    nested = {"encoder.downsamples.0.downsamples.0.residual.0.gamma": 0, original: 1}
    assert to_diffusers(nested, 2)[expected] == 1


@pytest.mark.parametrize("sizes", [WAN21, WAN22], ids=["2.1", "2.2"])
def test_such_a_folder_encodes_as_diffusers_does(sizes: dict[str, Any], tmp_path: Path) -> None:
    vae = random_vae(sizes)
    vae.save_pretrained(tmp_path / "theirs")
    folder = save_original(tmp_path / "original", vae, nested="is_residual" in sizes)
    ours, theirs = WanVAE(str(folder)), WanVAE(str(tmp_path / "theirs"))
    assert ours.spatial_factor == theirs.spatial_factor
    assert ours.vae.state_dict().keys() == vae.state_dict().keys()
    for name, value in ours.vae.state_dict().items():
        assert torch.equal(value, vae.state_dict()[name]), name
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    torch.testing.assert_close(ours.encode(video), theirs.encode(video))


def test_any_other_config_is_refused(tmp_path: Path) -> None:
    folder = save_original(tmp_path / "vae", random_vae(WAN21), nested=False)
    save_file({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match="no 'base_dim'"):
        WanVAE(str(folder))
