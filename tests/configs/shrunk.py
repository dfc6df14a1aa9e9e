"""Shipped experiments with tiny parts: the same classes, composed and trained the same way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tests.tiny import BACKBONE, CODEC, CONTEXT, ROOT
from tests.tiny_vlm import QWEN25

from vedit.cli.yaml_file import Tree

CONFIGS = ROOT / "configs"

PICTURES = {"min_pixels": 784, "max_pixels": 3136, "multiple": None}
READER: dict[str, Any] = {
    "weights": None,
    "config": QWEN25,
    "tokenizer": str(ROOT / "nano" / "tokenizer"),
    "dtype": "float32",
    "views": {"max_frames": 4, "video": PICTURES, "image": PICTURES, "reference": PICTURES},
}
CLIP = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "image_size": 28}
# What makes a part tiny; classes that are not here have no sizes of their own.
SIZES: dict[str, dict[str, Any]] = {
    "WanDiT": {**BACKBONE, "weights": None, "recompute": None},
    "WanVAE": {**CODEC, "weights": None, "dtype": "float32"},
    "UMT5": {**CONTEXT, "weights": None, "projection": None, "dtype": "float32"},
    "MLLMQueries": {**READER, "counts": {"image": 3, "video": 4, "reference": 5}},
    "MultiscaleVLM": READER,
    "CLIPImages": {**CLIP, "num_attention_heads": 2, "weights": None, "projection": None},
    "LoRA": {"rank": 2, "alpha": None},
    "Euler": {"steps": 1},
    "UniPC": {"steps": 1},
    "OneCycleLR": {"total_steps": 2},
}


def shrink(tree: Any) -> Any:
    """The tree with tiny parts; which classes it names stays as it is."""
    if isinstance(tree, list):
        return [shrink(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {key: shrink(value) for key, value in tree.items()}
    name = str(tree.get("class_path", "")).rpartition(".")[2]
    if name in SIZES:
        tree["init_args"] = {**(tree.get("init_args") or {}), **copy.deepcopy(SIZES[name])}
    return tree


def tiny(tree: Tree, shards: Path) -> Tree:
    """A configuration that trains one step of two samples in a moment.

    Args:
        tree: composed.
        shards: to train on; turns are those of the configuration if they are between kinds.
    """
    tree = shrink(tree)
    # Generating code takes longer than a tiny step; tests/test_compilation.py does.
    tree["model"] |= {"init_from": None, "compile": None}
    tree["data"] = {
        **(tree.get("data") or {}),
        "train": str(shards),
        "validation": str(shards),
        "test": None,
        "batch_size": 2,
        "eval_batch_size": None,
        "num_workers": 0,
        "pin_memory": False,
        "latents": "auto",
    }
    trainer = tree["trainer"]
    trainer |= {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}
    trainer |= {"max_steps": 1, "limit_val_batches": 1, "val_check_interval": 1}
    trainer |= {"accumulate_grad_batches": 1, "logger": False, "enable_checkpointing": False}
    trainer["callbacks"] = []
    return tree
