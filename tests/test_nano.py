"""The shipped nano weights: small, loadable here and in diffusers, and worth their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vedit.cli.extends import compose
from vedit.codecs.wan_vae import WanVAE
from vedit.data.splits import clip_spans
from vedit.engine.pixels import to_signed
from vedit.finetune.trained import read_trained
from vedit.video import iter_frames

ROOT = Path(__file__).parents[1]
NANO = ROOT / "nano"


def test_everything_fits_in_20_megabytes() -> None:
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) <= 20e6


def test_diffusers_loads_the_transformer() -> None:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel.from_pretrained(NANO / "transformer", torch_dtype=torch.float32)
    sizes = compose([ROOT / "configs/base/nano.yaml"], ()).tree["model"]["backbone"]["init_args"]
    assert model.config.num_layers == sizes["num_layers"]
    assert model.config.ffn_dim == sizes["ffn_dim"]
    assert model.config.in_channels == sizes["in_channels"]


def test_the_injections_belong_to_the_slots() -> None:
    slots = {key.split(".")[2] for key in read_trained(NANO / "injections")}
    assert slots == {"source", "mask", "reference"}


def test_the_quickstart_teaches_what_pretraining_has_not_seen() -> None:
    taught, seen = (
        set(compose([ROOT / f"configs/data/{name}.yaml"], ()).tree["build"]["edits"])
        for name in ("quickstart", "pretrain")
    )
    assert len(taught) >= 8
    assert not taught & seen


@pytest.mark.slow
def test_the_codec_reconstructs_held_out_clips() -> None:
    clips = ROOT / "data" / "demo"
    if not (clips / "bikes.mp4").is_file():
        pytest.skip("needs the demo clips: vedit data fetch-demo --output data/demo")
    codec = WanVAE(weights=str(NANO / "vae"))
    codec.load_weights()
    clip_means = []
    for path, span in clip_spans(clips, "test"):
        frames = torch.stack(list(iter_frames(path, span.start, span.stop, size=(64, 112))))
        found = []  # over the whole of the clip: its shots differ by 10 dB
        for start in range(0, len(frames) - 9, max(9, len(frames) // 12)):
            x = to_signed(frames[start : start + 9]).transpose(0, 1)[None]
            error = (codec.decode(codec.encode(x)) - x).square().mean()
            found.append(10 * torch.log10(4 / error))
        clip_means.append(torch.stack(found).mean())
    assert torch.stack(clip_means).mean() >= 27.0
