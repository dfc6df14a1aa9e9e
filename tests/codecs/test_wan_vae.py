"""The Wan autoencoder as a codec: sizes, loading, freezing, precision, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.clips import moving

from vedit.codecs.wan_vae import WanVAE
from vedit.errors import ConfigError, DataError, WeightsError
from vedit.model import materialise

NANO_VAE = str(Path(__file__).parents[2] / "nano" / "vae")
TINY: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.0, 2.0, 0.5, 1.5],
}


@pytest.fixture(scope="module")
def codec() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(config=TINY)


@pytest.fixture
def saved(codec: WanVAE, tmp_path: Path) -> Path:
    codec.vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def clip(frames: int = 5, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_latents_have_the_announced_grid(codec: WanVAE, frames: int) -> None:
    latents = codec.encode(clip(frames))
    assert latents.shape == (1, 4, *codec.latent_grid(frames, 16, 24))
    assert codec.decode(latents).shape == (1, 3, frames, 16, 24)


def test_the_factors_follow_the_config(codec: WanVAE) -> None:
    assert (codec.latent_channels, codec.temporal_factor, codec.spatial_factor) == (4, 4, 8)
    with torch.device("meta"):
        assert WanVAE().spatial_factor == 8
        of_5b = {"dim_mult": [1, 2, 4, 4], "patch_size": 2, "in_channels": 12, "out_channels": 12}
        assert WanVAE(config={**of_5b, "is_residual": True}).spatial_factor == 16


def test_decoded_video_is_in_range() -> None:
    codec = WanVAE(config=TINY)
    codec.vae.decoder.conv_out.weight.mul_(1e4)
    video = codec.decode(torch.randn(1, 4, 1, 2, 3))
    assert video.abs().max() == 1


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((8, 16, 24), "9 frames of 16x24"),
        ((6, 16, 24), "5 frames of 16x24"),
        ((9, 15, 24), "9 frames of 16x24"),
        ((9, 16, 29), "9 frames of 16x32"),
        ((9, 16, 27), "9 frames of 16x24"),
        ((0, 3, 3), "1 frames of 8x8"),
    ],
)
def test_an_invalid_size_names_the_nearest(
    codec: WanVAE, size: tuple[int, int, int], nearest: str
) -> None:
    with pytest.raises(DataError, match=f"nearest: {nearest}") as caught:
        codec.check_size(*size)
    assert f"{size[0]} frames of {size[1]}x{size[2]}" in str(caught.value)


def test_encode_refuses_an_invalid_size(codec: WanVAE) -> None:
    with pytest.raises(DataError, match="4k\\+1 frames"):
        codec.encode(clip(frames=4))


def test_it_never_trains(codec: WanVAE) -> None:
    codec.train()
    assert not any(module.training for module in codec.modules())
    assert not any(p.requires_grad for p in codec.parameters())
    video = clip().requires_grad_()
    latents = codec.encode(video)
    assert not latents.requires_grad
    assert not codec.decode(latents.requires_grad_()).requires_grad


def test_encoding_is_the_mode_and_repeats(codec: WanVAE) -> None:
    video = clip()
    assert torch.equal(codec.encode(video), codec.encode(video))


def test_samples_do_not_mix(codec: WanVAE) -> None:
    videos = torch.cat([clip(), clip()])
    torch.testing.assert_close(
        codec.encode(videos)[1:], codec.encode(videos[1:]), atol=1e-5, rtol=0
    )


def test_weights_load_at_once_or_after_meta(codec: WanVAE, saved: Path) -> None:
    video = clip()
    expected = codec.encode(video)
    assert torch.equal(WanVAE(str(saved)).encode(video), expected)
    assert torch.equal(materialise(lambda: WanVAE(str(saved))).encode(video), expected)


def test_sizes_on_meta_need_no_weights(saved: Path) -> None:
    with torch.device("meta"):
        codec = WanVAE("no/such", config=TINY)
        from_folder = WanVAE(str(saved))
    assert codec.latent_grid(9, 64, 112) == from_folder.latent_grid(9, 64, 112) == (3, 8, 14)
    assert all(p.is_meta for p in codec.parameters())


def test_a_config_that_disagrees_names_the_key(saved: Path) -> None:
    with pytest.raises(WeightsError, match="model.codec.init_args.config.num_res_blocks is 2"):
        WanVAE(str(saved), config={**TINY, "num_res_blocks": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_dims": 8}, "config.base_dims: no such size. Did you mean 'base_dim'"),
        ({"temperal_downsample": [True, False]}, "temperal_downsample is \\[True, False\\]"),
        ({"latents_mean": [0.0]}, "latents_mean has 1 values, expected z_dim = 4"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WanVAE(config={**TINY, **change})


def test_bfloat16_computes_lower_and_returns_float32(codec: WanVAE, saved: Path) -> None:
    low = WanVAE(str(saved), dtype="bfloat16")
    video = clip()
    latents, expected = low.encode(video), codec.encode(video)
    assert latents.dtype == low.decode(latents).dtype == torch.float32
    error = (latents - expected).abs().max()
    assert 0 < error < 0.1 * expected.abs().max()
    assert {p.dtype for p in low.parameters()} == {torch.float32}


def test_float32_ignores_an_autocast_around_it(codec: WanVAE) -> None:
    video = clip()
    expected = codec.encode(video)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(video), expected)


@pytest.mark.parametrize("config", [TINY, {**TINY, "patch_size": None, "in_channels": 3}])
def test_tiles_are_of_pixels_and_what_is_no_larger_is_not_tiled(config: dict[str, Any]) -> None:
    config = {**config, "out_channels": config["in_channels"]}
    config["dim_mult"] = [1, 1, 1] if config["patch_size"] else [1, 1, 1, 1]
    config["temperal_downsample"] = [True, True, False][: len(config["dim_mult"]) - 1]
    torch.manual_seed(0)
    whole = WanVAE(config=config)
    tiled = WanVAE(config=config, tiling=True, tile_size=32, tile_overlap=16)
    tiled.vae.load_state_dict(whole.vae.state_dict())
    sides: list[tuple[int, int]] = []
    tiled.vae.encoder.register_forward_pre_hook(
        lambda _, inputs: sides.append(tuple(inputs[0].shape[-2:]))
    )
    fits = clip(5, 32, 24)
    latents = whole.encode(fits)
    assert torch.equal(tiled.encode(fits), latents)
    assert torch.equal(tiled.decode(latents), whole.decode(latents))
    sides.clear()
    larger = clip(5, 24, 64)
    latents = whole.encode(larger)
    assert tiled.encode(larger).shape == latents.shape
    unit = config["patch_size"] or 1
    assert sides == [(24 // unit, 32 // unit)] * 6  # three tiles, each in two steps of time
    assert tiled.decode(latents).shape == larger.shape


def test_tiles_lose_far_less_than_the_autoencoder_does() -> None:
    whole = WanVAE(NANO_VAE)
    frame = moving(1, 96, 160).permute(3, 0, 1, 2)[None] / 127.5 - 1
    latents = whole.encode(frame)
    video = whole.decode(latents)
    lost = (video - frame).square().mean()
    off, away = [], []
    for overlap in (8, 32):
        tiled = WanVAE(NANO_VAE, tiling=True, tile_size=64, tile_overlap=overlap)
        off.append((tiled.encode(frame) - latents).norm() / latents.norm())
        away.append((tiled.decode(latents) - video).square().mean())
        assert (tiled.decode(tiled.encode(frame)) - frame).square().mean() < 1.1 * lost
    assert off[1] < off[0] < 0.15
    assert away[1] < away[0] < 0.1 * lost


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tile_size": 100}, "init_args.tile_size: got 100, .* 8 pixels of a latent; nearest: 96"),
        ({"tile_size": 0}, "init_args.tile_size: got 0, .* nearest: 8"),
        ({"tile_overlap": 12}, "init_args.tile_overlap: got 12, .* nearest: 16"),
        ({"tile_size": 64, "tile_overlap": 40}, "got 40, expected at most half of .* is 64"),
    ],
)
def test_tiles_that_cannot_be_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WanVAE(config=TINY, tiling=True, **sizes)
    WanVAE(config=TINY, **sizes)  # nobody reads them


def test_fingerprint_follows_weights_and_settings(codec: WanVAE, saved: Path) -> None:
    torch.manual_seed(1)
    other = WanVAE(config=TINY)
    prints = {
        WanVAE(str(saved)).fingerprint(),
        WanVAE(str(saved), tiling=True).fingerprint(),
        WanVAE(str(saved), tiling=True, tile_overlap=128).fingerprint(),
        WanVAE(str(saved), dtype="bfloat16").fingerprint(),
        codec.fingerprint(),
        other.fingerprint(),
    }
    assert len(prints) == 6
    assert WanVAE(str(saved)).fingerprint() in prints
