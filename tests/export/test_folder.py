"""A merged export is a folder that diffusers runs and that vedit reads again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LucyEditPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image
from tests.export.editors import APPEND, CONCAT, LORA, published, trained, velocity
from tests.tiny_run import part
from torch import Tensor

from vedit.batch import EditBatch
from vedit.editor.checkpoint import load_trained
from vedit.errors import ConfigError
from vedit.export.export import export
from vedit.system import EditSystem
from vedit.weights import tensors

TOLERANCE = 1e-5
FULL = part("vedit.finetune.full.Full")


@pytest.mark.parametrize("source", [None, CONCAT], ids=["text", "joined"])
@pytest.mark.parametrize("backbone", [LORA, FULL], ids=["lora", "full"])
def test_the_merged_transformer_computes_the_same(
    source: dict | None, backbone: dict, tmp_path: Path
) -> None:
    plan = {"backbone": backbone, "connector": FULL}
    path, system = trained(tmp_path, source=source, finetune=plan)
    export(path, "diffusers", tmp_path / "out")
    transformer = WanTransformer3DModel.from_pretrained(tmp_path / "out" / "transformer")
    assert transformer.config.in_channels == (8 if source else 4)
    expected = velocity(system)
    torch.testing.assert_close(published(transformer, system), expected, atol=TOLERANCE, rtol=0)
    base = WanTransformer3DModel.from_pretrained(tmp_path / "base")
    if source is None:
        assert (published(base, system) - expected).abs().max() > 1e-2


def test_the_exported_pipeline_edits_as_the_sampler_does(tmp_path: Path) -> None:
    path, system = trained(tmp_path, source=CONCAT)
    export(path, "diffusers", tmp_path / "out")
    pipeline = LucyEditPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    noise = torch.randn(1, 4, 2, 4, 6, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        [Image.fromarray(frame) for frame in frames],
        "make it blue",
        negative_prompt="",
        height=32,
        width=48,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=noise.clone(),
        output_type="latent",
        max_sequence_length=12,
    ).frames
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    batch = EditBatch(("make it blue",), ("key",), {"source": pixels})
    ours = sampled(system, batch, noise)
    assert (ours - noise).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def sampled(system: EditSystem, batch: EditBatch, noise: Tensor) -> Tensor:
    with torch.no_grad():
        velocity = system._velocity(system.conditions(batch), 4.0)
        sampler = system.sampler
        sampler.steps = 3
        return sampler.sample(velocity, noise)


def test_text_to_video_becomes_wan_pipeline(tmp_path: Path) -> None:
    path, _ = trained(tmp_path)
    lines = export(path, "diffusers", tmp_path / "out")
    assert "WanPipeline" in lines[0]
    assert isinstance(WanPipeline.from_pretrained(tmp_path / "out"), WanPipeline)


@pytest.mark.parametrize(
    "slots",
    [
        {"source": CONCAT},
        {"source": APPEND, "mask": part("vedit.conditioning.add.AddToTokens", segment="source"),
         "reference": part("vedit.conditioning.append.AppendTokens", time="after")},
    ],
    ids=["joined", "appended"],
)  # fmt: skip
def test_vedit_reads_its_own_export(slots: dict, tmp_path: Path) -> None:
    path, system = trained(tmp_path, **slots)
    export(path, "diffusers", tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    again = load_trained(moved).system
    torch.testing.assert_close(velocity(again), velocity(system), atol=TOLERANCE, rtol=0)
    assert again.guidance == system.guidance
    assert again.sampler.steps == system.sampler.steps


def test_joined_weights_are_recognised_without_the_settings(tmp_path: Path) -> None:
    path, system = trained(tmp_path, source=CONCAT)
    export(path, "diffusers", tmp_path / "out")
    (tmp_path / "out" / "vedit.yaml").unlink()
    again = load_trained(tmp_path / "out").system
    assert list(again.make_injections) == ["instruction", "source"]
    again.context.max_tokens = system.context.max_tokens
    # The text encoder of such a folder is held in bfloat16.
    torch.testing.assert_close(velocity(again), velocity(system), atol=5e-2, rtol=0)
    again.context.tower = system.context.tower
    torch.testing.assert_close(velocity(again), velocity(system), atol=TOLERANCE, rtol=0)


def test_half_precision_is_what_was_asked_for(tmp_path: Path) -> None:
    path, _ = trained(tmp_path)
    export(path, "diffusers", tmp_path / "out", torch.bfloat16)
    stored = tensors(tmp_path / "out" / "transformer")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


def test_mistakes_are_named(tmp_path: Path) -> None:
    path, _ = trained(tmp_path, finetune={"backbone": FULL})
    with pytest.raises(ConfigError, match="trained no adapter but model.finetune.backbone = Full"):
        export(path, "lora", tmp_path / "out")
    with pytest.raises(ConfigError, match="'difusers' is none of .* Did you mean 'diffusers'"):
        export(path, "difusers", tmp_path / "out")
    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        export(path, "diffusers", tmp_path)
