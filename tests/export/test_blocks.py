"""Editors with other blocks than Wan's text-to-video models: what of them other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from tests.context.test_multiscale_vlm import QWEN25
from tests.export.editors import CONCAT, LORA, SIZES, configuration, shaken
from tests.tiny_run import part
from torch import Tensor

from vedit.batch import Conditions
from vedit.editor.checkpoint import load_trained
from vedit.errors import ConfigError
from vedit.export.export import export
from vedit.system import EditSystem
from vedit.weights import read_config, tensors

TOLERANCE = 1e-5
FULL = part("vedit.finetune.full.Full")
CLIP = {"hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2}
CLIP |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TEXT = 512  # diffusers takes the last 512 tokens of the context for text, all before for images


def dual(folder: Path, images: list[str], **plan: Any) -> dict[str, Any]:
    """Words and images encoded apart, the source concatenated: Wan's image-to-video, as an editor.

    Args:
        folder: of the weights.
        images: what the image encoder reads.
        **plan: what trains.
    """
    model = configuration(folder, source=CONCAT, finetune=plan)
    model["backbone"]["init_args"]["block"] = "vedit.backbones.blocks.DualCrossBlock"
    text = model["context"]
    text["init_args"]["max_tokens"] = TEXT
    image = part("vedit.context.clip.CLIPImages", images=images, **CLIP)
    model["context"] = part("vedit.context.decoupled.Decoupled", text=text, image=image)
    return model


def unified(folder: Path, **plan: Any) -> dict[str, Any]:
    """Everything in one self-attention, read by a vision-language model."""
    model = configuration(folder, source=CONCAT, finetune=plan)
    model["backbone"]["init_args"]["block"] = "vedit.backbones.blocks.UnifiedBlock"
    nano = model["context"]["init_args"]["tokenizer"]
    given = {"config": QWEN25, "tokenizer": nano}
    model["context"] = part("vedit.context.multiscale_vlm.MultiscaleVLM", **given)
    model["instruction"] = part("vedit.conditioning.append.AppendContext")
    return model


def conditions(system: EditSystem) -> tuple[Tensor, Tensor, Conditions, dict[str, Tensor]]:
    """Noisy latents, noise levels, conditions, and the features that the context is made of."""
    generator = torch.Generator().manual_seed(2)
    x, source = (torch.randn(1, 4, 2, 4, 6, generator=generator) for _ in range(2))
    pixels = torch.rand(1, 3, 5, 32, 48, generator=generator) * 2 - 1
    images = {"source": pixels, "reference": pixels[:, :, :1]}
    with torch.no_grad():
        features = system.context.features(("make it blue",), images)
        given = Conditions({"source": source}, system.context.context(features))
    return x, torch.tensor([0.7]), given, features


def velocity(system: EditSystem) -> Tensor:
    x, sigma, given, _ = conditions(system)
    with torch.no_grad():
        return system(x, sigma, given)


@pytest.mark.parametrize("images", [["reference"], ["source", "reference"]], ids=["one", "two"])
def test_a_second_branch_becomes_that_of_image_to_video_models(
    images: list[str], tmp_path: Path
) -> None:
    path, system = shaken(tmp_path, dual(tmp_path, images, backbone=LORA, connector=FULL))
    lines = export(path, "diffusers", tmp_path / "out")
    assert "a WanTransformer3DModel of diffusers" in lines[0]
    transformer = WanTransformer3DModel.from_pretrained(tmp_path / "out" / "transformer")
    assert transformer.config.added_kv_proj_dim == 32
    assert transformer.config.image_dim == CLIP["hidden_size"]
    assert transformer.config.in_channels == 8
    x, sigma, given, features = conditions(system)
    words = features["text.text"]
    words = torch.nn.functional.pad(words, (0, 0, 0, TEXT - words.shape[1]))
    # Of several images diffusers makes one row in pairs: as many rows as a pair has images.
    seen = features["image.image"].reshape(len(images), -1, CLIP["hidden_size"])
    joined = torch.cat([x, given.latents["source"]], dim=1)
    with torch.no_grad():
        theirs = transformer(joined, 1000 * sigma, words, encoder_hidden_states_image=seen).sample
        blind = system(x, sigma, Conditions(given.latents, system.context.null(1)))
    ours = velocity(system)
    torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)
    assert (blind - ours).abs().max() > 1e-3
    again = load_trained((tmp_path / "out").rename(tmp_path / "moved")).system
    torch.testing.assert_close(velocity(again), ours, atol=TOLERANCE, rtol=0)


def test_one_self_attention_has_no_class_elsewhere_but_its_adapter_loads(tmp_path: Path) -> None:
    plan = {"backbone": LORA, "connector": FULL}
    path, system = shaken(tmp_path, unified(tmp_path, **plan))
    for format in ("diffusers", "comfyui"):
        with pytest.raises(ConfigError, match=r"UnifiedBlock has no counterpart.*--format vedit"):
            export(path, format, tmp_path / format)
        assert not (tmp_path / format).exists()
    export(path, "lora", tmp_path / "lora")
    transformer = WanTransformer3DModel(out_channels=4, **SIZES)
    transformer.load_lora_adapter(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    weight = transformer.blocks[0].attn1.to_q.lora_B["default_0"].weight
    own = system.model.backbone.blocks[0].attn1.to_q.lora_B["default"].weight
    torch.testing.assert_close(weight, own, rtol=0, atol=0)


@pytest.mark.parametrize("backbone", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("compose", [unified, dual], ids=["unified", "dual"])
def test_our_own_format_takes_any_block(compose: Any, backbone: dict, tmp_path: Path) -> None:
    plan = {"backbone": backbone, "connector": FULL}
    images = () if compose is unified else (["reference"],)
    path, system = shaken(tmp_path, compose(tmp_path, *images, **plan))
    export(path, "vedit", tmp_path / "out")
    (tmp_path / "base").rename(tmp_path / "gone")  # nothing of the export lies there
    again = load_trained((tmp_path / "out").rename(tmp_path / "moved")).system
    torch.testing.assert_close(velocity(again), velocity(system), atol=TOLERANCE, rtol=0)
    assert list(again.make_injections) == list(system.make_injections)


def test_half_precision_is_what_was_asked_for(tmp_path: Path) -> None:
    path, _ = shaken(tmp_path, unified(tmp_path, backbone=FULL))
    export(path, "vedit", tmp_path / "out", torch.bfloat16)
    stored = tensors(tmp_path / "out" / "transformer")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert read_config(tmp_path / "out" / "transformer")["num_attention_heads"] == 2
