"""An editor's transformer, or the adapter on it, by the names that ComfyUI reads.

ComfyUI looks for adapters under ``diffusion_model.``, as its own model names its weights; whole
models bear ``model.diffusion_model.``, as it writes them itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vedit.export.names import original
from vedit.export.transformer import backbone_of, merge_adapters, transformer_tensors
from vedit.finetune.lora import LoRA
from vedit.system import EditSystem

ADAPTER, WHOLE = "diffusion_model.", "model.diffusion_model."


def adapter_tensors(system: EditSystem) -> dict[str, Tensor]:
    """The adapter on the backbone by ComfyUI's names, each layer with its alpha.

    Args:
        system: built, its backbone adapted.

    Returns:
        Tensors such as ``diffusion_model.blocks.0.self_attn.q.lora_A.weight``.

    Raises:
        ConfigError: if the backbone has no counterpart.
    """
    method = system.finetune.backbone
    assert isinstance(method, LoRA)
    found: dict[str, Tensor] = {}
    for name, value in method.saved(backbone_of(system)).items():
        named = ADAPTER + original(name)
        found[named] = value.detach().cpu().contiguous()
        found[f"{named.partition('.lora_')[0]}.alpha"] = torch.tensor(method.alpha)
    return found


def whole_tensors(system: EditSystem) -> dict[str, Tensor]:
    """The merged transformer by ComfyUI's names.

    Args:
        system: built; its adapters are merged in place.

    Returns:
        Tensors such as ``model.diffusion_model.blocks.0.self_attn.q.weight``.

    Raises:
        ConfigError: if the backbone has no counterpart.
    """
    merge_adapters(system)
    return {WHOLE + original(name): value for name, value in transformer_tensors(system).items()}


def write_file(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> Path:
    """Write tensors to one file.

    Args:
        path: the file.
        tensors: by name.
        dtype: to write them in.

    Returns:
        The file.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {name: value.detach().to("cpu", dtype).contiguous() for name, value in tensors.items()}
    save_file(cast, path, metadata={"format": "pt"})
    return path
