"""Four ways from one task to the backbone, and three choices of layers: each an override of YAML.

They are the rows of MiVE's tables 3 and 4 (arXiv 2605.14664), at the size of a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.context.test_multiscale_vlm import QWEN25
from tests.tiny import BACKBONE, CODEC, ROOT

from vedit.batch import EditBatch
from vedit.cli.experiment import check, read, system
from vedit.system import EditSystem

CONTEXT = "vedit.context."
PICTURES = {"min_pixels": 784, "max_pixels": 3136, "multiple": 28}
VLM: dict[str, Any] = {
    "class_path": f"{CONTEXT}multiscale_vlm.MultiscaleVLM",
    "init_args": {
        "config": QWEN25,
        "tokenizer": str(ROOT / "nano" / "tokenizer"),
        "views": {"max_frames": 4, "video": PICTURES, "reference": PICTURES},
    },
}
MODEL: dict[str, Any] = {
    "backbone": {
        "class_path": "vedit.backbones.wan.WanDiT",
        "init_args": {**BACKBONE, "block": "vedit.backbones.blocks.UnifiedBlock"},
    },
    "codec": {"class_path": "vedit.codecs.wan_vae.WanVAE", "init_args": CODEC},
    "context": VLM,
    "instruction": {"class_path": "vedit.conditioning.append.AppendContext"},
    "source": {"class_path": "vedit.conditioning.add.ConcatChannels"},
    "reference": {"class_path": "vedit.conditioning.append.PrependFrames"},
    "guidance": 3.0,
    "sampler": {"class_path": "vedit.flow.sampler.Euler", "init_args": {"steps": 1}},
    "noise_levels": {"class_path": "vedit.flow.noise_levels.LogitNormal"},
    "weighting": {"class_path": "vedit.flow.weighting.NoWeighting"},
    "finetune": {
        "backbone": {"class_path": "vedit.finetune.full.Full"},
        "connector": {"class_path": "vedit.finetune.full.Full"},
    },
    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
}
BLOCK = "model.backbone.init_args.block"
DUAL = "vedit.backbones.blocks.DualCrossBlock"
CROSS = "vedit.conditioning.cross.CrossAttend"
DECOUPLED: dict[str, Any] = {
    "class_path": f"{CONTEXT}decoupled.Decoupled",
    "init_args": {
        "text": {
            "class_path": f"{CONTEXT}umt5.UMT5",
            "init_args": {
                **{"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8},
                **{"vocab_size": 1000, "max_tokens": 8},
                "tokenizer": str(ROOT / "nano" / "tokenizer"),
            },
        },
        "image": {
            "class_path": f"{CONTEXT}clip.CLIPImages",
            "init_args": {
                **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
                **{"num_attention_heads": 2, "image_size": 28, "images": ["reference"]},
            },
        },
    },
}
ARCHITECTURES: dict[str, list[tuple[str, Any]]] = {
    "decoupled, dual cross-attention": [
        ("model.context", DECOUPLED),
        (BLOCK, DUAL),
        ("model.instruction.class_path", CROSS),
    ],
    "unified, dual cross-attention": [
        ("model.context.init_args.streams", ["image"]),
        (BLOCK, DUAL),
        ("model.instruction.class_path", CROSS),
    ],
    "unified, fused cross-attention": [
        (BLOCK, "vedit.backbones.blocks.CrossBlock"),
        ("model.instruction.class_path", CROSS),
    ],
    "unified, self-attention": [],
}
LAYERS = {"first": [1], "last": [-1], "first and last": [1, -1]}


def build(folder: Path, overrides: list[tuple[str, Any]]) -> EditSystem:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL}))
    torch.manual_seed(0)
    made = system(check(read([str(path)], overrides), trainer=False))
    made.configure_model()
    return made


def batch() -> EditBatch:
    torch.manual_seed(1)
    source, target = torch.rand(2, 2, 3, 5, 16, 16) * 2 - 1
    reference = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    return EditBatch(
        instruction=("Blur", "Turn the whole clip upside down"),
        keys=("a", "b"),
        videos={"source": source, "target": target},
        reference=reference,
        shown=tuple(row.unbind() for row in reference),
    )


def step(made: EditSystem) -> None:
    """Forward and backward of the velocity, past the zeros that new parts start with."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    conditions = made.conditions(batch())
    x_t = torch.randn_like(made.latents(batch(), "target"))
    made(x_t, torch.tensor([0.3, 0.7]), conditions).square().mean().backward()


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_is_an_override_that_trains(
    overrides: list[tuple[str, Any]], tmp_path: Path
) -> None:
    made = build(tmp_path, overrides)
    step(made)
    lacking = [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    assert made.edit(batch()).isfinite().all()


@pytest.mark.parametrize("overrides", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_does_without_the_reference(
    overrides: list[tuple[str, Any]], tmp_path: Path
) -> None:
    made = build(tmp_path, overrides)
    assert made.edit(batch().without("reference")).isfinite().all()


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_every_choice_of_layers_is_an_override_that_trains(
    layers: list[int], tmp_path: Path
) -> None:
    made = build(tmp_path, [("model.context.init_args.layers", layers)])
    step(made)
    lacking = [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    assert len(made.context.connector.branches) == len(layers)
