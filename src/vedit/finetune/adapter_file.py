"""Adapters as diffusers stores them: one file, names that begin with "transformer."."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vedit.finetune.base import Finetune
from vedit.finetune.lora import LoRA

FILE = "pytorch_lora_weights.safetensors"
PREFIX, OURS = "transformer.", "model.backbone."
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the configuration of an adapter in the header of the file."""


def write_adapter(folder: Path, method: LoRA, module: nn.Module) -> Path:
    """Write the adapter of a backbone so that diffusers' `load_lora_weights` reads it.

    Args:
        folder: to write into; it exists.
        method: that adapted the module.
        module: what `LoRA.apply` returned.

    Returns:
        The file.
    """
    from safetensors.torch import save_file

    adapter = {k: v.detach().cpu().contiguous() for k, v in method.saved(module).items()}
    layers = sorted({name.partition(".lora_")[0] for name in adapter})
    said = {"r": method.rank, "lora_alpha": method.alpha, "target_modules": layers}
    header = json.dumps({PREFIX + key: value for key, value in said.items()})
    named = {PREFIX + name: value for name, value in adapter.items()}
    save_file(named, folder / FILE, metadata={"format": "pt", METADATA: header})
    return folder / FILE


def from_adapter_file(
    state: Mapping[str, Tensor], path: str | Path, method: Finetune
) -> dict[str, Tensor]:
    """What a file holds, by the keys of a checkpoint of vedit.

    Args:
        state: the tensors of the file; unchanged unless it is an adapter file of diffusers.
        path: the file, whose header tells the adapter's scale.
        method: of the backbone; where its scale differs, B is multiplied to make up for it.

    Returns:
        Tensors by keys such as ``model.backbone.blocks.0.attn1.to_q.lora_A.weight``.
    """
    if not state or not all(name.startswith(PREFIX) for name in state):
        return dict(state)
    own = method.alpha / method.rank if isinstance(method, LoRA) else 1.0
    factor = _scale(Path(path)) / own
    return {
        OURS + name[len(PREFIX) :]: value * factor if ".lora_B." in name else value
        for name, value in state.items()
    }


def _scale(path: Path) -> float:
    """Alpha over rank as the header says; 1 if it says nothing, as diffusers takes it."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        header = (opened.metadata() or {}).get(METADATA)
    said: dict[str, Any] = json.loads(header) if header else {}
    alpha, rank = said.get(f"{PREFIX}lora_alpha"), said.get(f"{PREFIX}r")
    return float(alpha) / float(rank) if alpha is not None and rank else 1.0
