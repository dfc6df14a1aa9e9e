"""A real run, as small as it gets: shards of exact edits, and a system trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tests.clips import moving, write_clip

from vedit.cli import main
from vedit.engine.build import build
from vedit.engine.build_config import BuildConfig

REPOSITORY = Path(__file__).parents[1]
FRAMES, HEIGHT, WIDTH = 5, 32, 48

CODEC = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}


def part(class_path: str, **arguments: Any) -> dict[str, Any]:
    """A class and its arguments, as YAML says it."""
    return {"class_path": class_path, "init_args": arguments}


def codec(folder: Path) -> str:
    """A folder with the weights of a codec, random ones."""
    if not (folder / "vae").is_dir():
        from vedit.codecs.wan_vae import WanVAE

        torch.manual_seed(0)
        WanVAE(config=CODEC).vae.save_pretrained(folder / "vae")
    return str(folder / "vae")


def model(folder: Path, **slots: Any) -> dict[str, Any]:
    """Arguments of an `EditSystem` that trains in a second."""
    backbone = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    backbone |= {"ffn_dim": 32, "in_channels": 4, "text_dim": 128, "freq_dim": 16}
    words = {"d_model": 128, "d_ff": 256, "num_layers": 2, "num_heads": 4, "d_kv": 32}
    nano = REPOSITORY / "nano"
    return {
        "backbone": part("vedit.backbones.wan.WanDiT", **backbone),
        "codec": part("vedit.codecs.wan_vae.WanVAE", weights=codec(folder)),
        "context": part(
            "vedit.context.umt5.UMT5",
            weights=str(nano / "text_encoder"),
            tokenizer=str(nano / "tokenizer"),
            vocab_size=1000,
            max_tokens=12,
            **words,
        ),
        "instruction": part("vedit.conditioning.cross.CrossAttend"),
        "source": part("vedit.conditioning.append.AppendTokens"),
        "mask": part("vedit.conditioning.add.AddToTokens"),
        "reference": part("vedit.conditioning.append.AppendTokens", time="after"),
        "noise_levels": part("vedit.flow.noise_levels.Uniform"),
        "weighting": part("vedit.flow.weighting.NoWeighting"),
        "sampler": part("vedit.flow.sampler.Euler", steps=2),
        "finetune": {"connector": part("vedit.finetune.full.Full")},
        "optimizer": part("torch.optim.AdamW", lr=1e-3),
        **slots,
    }  # fmt: skip


def shards(folder: Path, split: str = "train", windows: int = 2, **changes: Any) -> Path:
    """Shards of three edits."""
    clips = folder / "clips"
    if not clips.is_dir():
        clips.mkdir(parents=True)
        write_clip(clips / "one.mp4", moving(24, 48, 80))
        write_clip(clips / "two.mp4", 255 - moving(24, 64, 64))
        half = '{"train": [[0, 12]], "test": [[12, null]]}'
        (clips / "splits.json").write_text(f'{{"one.mp4": {half}, "two.mp4": {half}}}')
    settings = {
        "clips": clips,
        "output": folder / split,
        "split": split,
        "edits": ["grayscale", "negative", "mirror"],
        "windows": windows,
        "frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "strides": [1],
        "reference": True,
        **changes,
    }
    build(BuildConfig(**settings), progress=lambda line: None)
    return folder / split


def config(folder: Path, name: str = "tiny", steps: int = 1, **changes: Any) -> Path:
    """The configuration of a run whose data and results lie in a folder."""
    content = {
        "name": name,
        "model": model(folder, **changes),
        "data": {
            "train": str(folder / "train"),
            "test": str(folder / "test"),
            "batch_size": 2,
            "latents": "never",
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "logger": part(
                "lightning.pytorch.loggers.TensorBoardLogger",
                save_dir=str(folder / "runs"), name=name, version="",
            ),
            "callbacks": [
                part("vedit.callbacks.checkpoint.PeriodicCheckpoint", every_n_steps=1),
                part("vedit.callbacks.report.EditReport", output=str(folder / "runs" / name)),
            ],
        },
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def fit(folder: Path, **changes: Any) -> Path:
    """Train; returns the folder of the run."""
    if not (folder / "train").is_dir():
        shards(folder, "train", masked_fraction=0.5)
        shards(folder, "test")
    path = config(folder, **changes)
    assert main(["fit", "--config", str(path)]) == 0
    return folder / "runs" / path.stem
