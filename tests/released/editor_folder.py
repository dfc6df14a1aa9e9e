"""A complete released editor, a few thousand parameters large, in the layout of the release."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from tests import tiny_vlm
from tests.codecs.test_wan_names import WAN21, random_vae, save_original
from tests.wan import randomised
from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.context.mllm_queries import MLLMQueries

WIDTH, CHANNELS = 32, 4
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 32,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": 24,
    "freq_dim": 16,
}


def save_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_embedder(folder: Path, first: bool = False, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    save_json(
        folder / "config.json",
        {"_class_name": "ConditionalEmbedder", "in_dim": CHANNELS, "dim": WIDTH,
         "patch_size": [1, 2, 2], "zero_init": True, "ref_pad_first": first},
    )  # fmt: skip
    weight = torch.randn(WIDTH, CHANNELS, 1, 2, 2, generator=generator)
    tensors = {"patch_embedding.weight": weight, "patch_embedding.bias": torch.ones(WIDTH)}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def save_encoder(folder: Path) -> MLLMQueries:
    """`mllm_encoder` and `processor`; the language model in two shards, in the older names."""
    spec = BackboneSpec(WIDTH, CHANNELS, (1, 2, 2), cross_attention=True)
    model = tiny_vlm.awake(
        MLLMQueries(
            spec,
            config=tiny_vlm.sizes(tiny_vlm.QWEN25),
            tokenizer=tiny_vlm.TOKENIZER,
            counts=tiny_vlm.COUNTS,
        )
    )
    place, processor = folder / "mllm_encoder", folder / "processor"
    counts = {"num_image_queries": 4, "num_video_queries": 5, "num_ref_queries": 6}
    budgets = {"max_object_token": 4, "max_frames": 16, "max_pixels_per_frame": 3136}
    save_json(place / "config.json", {"_class_name": "MLLMEncoder", **counts, **budgets})
    shutil.copytree(tiny_vlm.TOKENIZER, processor)
    save_json(processor / "qwen_config.json", tiny_vlm.sizes(tiny_vlm.QWEN25))
    save_file(_plain(model.connector), place / "diffusion_pytorch_model.safetensors")
    tower = {_older(name): value for name, value in _plain(model.tower).items()}
    tower["lm_head.weight"] = torch.zeros(1007, 32)
    shards: dict[str, dict[str, Tensor]] = {}
    for number, (name, value) in enumerate(tower.items()):
        shards.setdefault(f"model-0000{number % 2 + 1}-of-00002.safetensors", {})[name] = value
    for file, tensors in shards.items():
        save_file(tensors, place / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    save_json(place / "model.safetensors.index.json", {"weight_map": weight_map})
    return model


def _plain(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _older(name: str) -> str:
    return name.replace("language_model.", "model.") if name.startswith("language_") else name


def save_editor(folder: Path, first: bool = False) -> MLLMQueries:
    """Every part; returns the encoder that was saved."""
    transformer = randomised(WanTransformer3DModel(**SIZES), std=0.1)
    transformer.save_pretrained(folder / "transformer")
    save_embedder(folder / "source_embedder", seed=1)
    save_embedder(folder / "ref_embedder", first, seed=2)
    save_original(folder / "vae", random_vae(WAN21), nested=False)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    save_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    save_json(folder / "model_index.json", {"_class_name": ["pipeline", "Pipeline"]})
    return save_encoder(folder)
