"""An editor of a few thousand parameters, as Python objects and as a configuration."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.data.samples import sample, write_folder

from vedit.backbones.wan import WanDiT
from vedit.batch import EditBatch
from vedit.codecs.wan_vae import WanVAE
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.cross import CrossAttend
from vedit.context.umt5 import UMT5
from vedit.flow.noise_levels import LogitNormal
from vedit.flow.sampler import Euler
from vedit.flow.weighting import NoWeighting
from vedit.system import EditSystem

ROOT = Path(__file__).parents[1]

BACKBONE: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "in_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
}
CODEC: dict[str, Any] = {
    "config": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    }
}
CONTEXT: dict[str, Any] = {
    "d_model": 16,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "d_kv": 8,
    "vocab_size": 1000,
    "max_tokens": 8,
    "tokenizer": str(ROOT / "nano" / "tokenizer"),
}


def make_system(**changes: Any) -> EditSystem:
    """A system with an instruction and a source; `changes` replace its arguments."""
    arguments: dict[str, Any] = {
        "backbone": lambda: WanDiT(**BACKBONE),
        "codec": lambda: WanVAE(**CODEC),
        "context": lambda spec: UMT5(spec, **CONTEXT),
        "instruction": CrossAttend,
        "source": AppendTokens,
        "noise_levels": LogitNormal(),
        "weighting": NoWeighting(),
        "sampler": Euler(steps=2),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    }
    return EditSystem(**{**arguments, **changes})


def built(**changes: Any) -> EditSystem:
    torch.manual_seed(0)
    system = make_system(**changes)
    system.configure_model()
    return system


def shake(system: EditSystem) -> EditSystem:
    """Give zero-initialised modules weights, so that conditions matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in system.model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return system


def make_batch(count: int = 2, reference: bool = False) -> EditBatch:
    generator = torch.Generator().manual_seed(2)

    def video(*shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=generator) * 2 - 1

    videos = {"source": video(3, 5, 16, 24), "target": video(3, 5, 16, 24)}
    images = video(2, 3, 16, 24) if reference else None
    return EditBatch(
        instruction=tuple(f"make it number {i}" for i in range(count)),
        keys=tuple(f"key-{i}" for i in range(count)),
        videos=videos,
        reference=images,
        shown=() if images is None else tuple(row.unbind() for row in images),
    )


def make_shards(folder: Path, count: int = 6) -> Path:
    write_folder(folder, [sample(number) for number in range(count)])
    return folder


def make_config(shards: Path, runs: Path) -> dict[str, Any]:
    """The same system as a configuration, with data and a trainer for three steps."""

    def named(class_path: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": class_path, "init_args": copy.deepcopy(arguments)}

    return {
        "name": "tiny",
        "seed_everything": 0,
        "model": {
            "backbone": named("WanDiT", **BACKBONE),
            "codec": named("WanVAE", **CODEC),
            "context": named("UMT5", **CONTEXT),
            "instruction": named("CrossAttend"),
            "source": named("AppendTokens"),
            "noise_levels": named("LogitNormal"),
            "weighting": named("NoWeighting"),
            "sampler": named("Euler", steps=2),
            "optimizer": named("AdamW", lr=0.01),
        },
        "data": {
            "train": str(shards),
            "validation": str(shards),
            "test": str(shards),
            "batch_size": 2,
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 3,
            "max_epochs": -1,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": None,
            "val_check_interval": 3,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "limit_predict_batches": 1,
            "enable_model_summary": False,
            "logger": named("TensorBoardLogger", save_dir=str(runs), name="${name}", version=""),
            "callbacks": [
                named("PeriodicCheckpoint", every_n_steps=3),
                named("LogProgress", every_n_steps=1),
            ],
        },
    }


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path
