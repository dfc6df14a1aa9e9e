"""Our codec against diffusers' autoencoder and the normalisation of its Wan pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from vedit.codecs.wan_vae import WanVAE

MEAN, STD = [0.3, -0.7, 0.1, 1.2], [0.5, 2.0, 1.3, 0.9]
COMMON = {"z_dim": 4, "num_res_blocks": 1, "latents_mean": MEAN, "latents_std": STD}
STYLES: dict[str, dict[str, Any]] = {
    "2.1": {
        "base_dim": 6,
        "dim_mult": [1, 1, 2, 2],
        "temperal_downsample": [False, True, True],
    },
    "2.2": {
        "base_dim": 6,
        "decoder_base_dim": 8,
        "dim_mult": [1, 2, 2],
        "temperal_downsample": [True, True],
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 8,
    },
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("frames", [1, 9])
@torch.no_grad()
def test_encode_and_decode_are_those_of_diffusers(style: str, frames: int, tmp_path: Path) -> None:
    theirs = AutoencoderKLWan(**COMMON, **STYLES[style]).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    ours = WanVAE(str(tmp_path))
    mean, std = (torch.tensor(values).view(1, 4, 1, 1, 1) for values in (MEAN, STD))
    video = torch.rand(2, 3, frames, 16, 24) * 2 - 1

    latents = (theirs.encode(video).latent_dist.mode() - mean) * (1.0 / std)
    torch.testing.assert_close(ours.encode(video), latents, atol=1e-5, rtol=0)

    noise = torch.randn_like(latents)
    decoded = theirs.decode(noise / (1.0 / std) + mean).sample
    torch.testing.assert_close(ours.decode(noise), decoded, atol=1e-5, rtol=0)
    assert decoded.std() > 0.01
