"""Write a trained editor in another tool's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from vedit.editor.checkpoint import Trained, Weights, load_trained
from vedit.errors import ConfigError, nearest
from vedit.export.comfyui import adapter_tensors, whole_tensors, write_file
from vedit.export.conditioning import conditioning_tensors, write_conditioning
from vedit.export.folder import write_folder, write_own_folder
from vedit.export.transformer import backbone_of, joined_source, merge_adapters, own_backbone
from vedit.finetune.adapter_file import write_adapter
from vedit.finetune.lora import LoRA
from vedit.system import EditSystem

Format = Literal["diffusers", "lora", "comfyui", "vedit"]
FORMATS: tuple[str, ...] = get_args(Format)


def export(
    checkpoint: str | Path,
    format: str,
    output: str | Path,
    dtype: torch.dtype = torch.float32,
    weights: Weights | None = None,
) -> list[str]:
    """Export what a checkpoint holds.

    Args:
        checkpoint: a run's folder, a file, or the folder of a published model.
        format: "diffusers" for a folder with adapters merged; "lora" for the adapter alone, as
            diffusers' `load_lora_weights` reads it; "comfyui" for ComfyUI's names: the adapter if
            there is one and it is all the transformer needs, or else the merged transformer;
            "vedit" for a folder, adapters merged, that vedit alone reads, whatever the blocks are.
        output: folder to write; must be new or empty.
        dtype: of the transformer; adapters stay in float32.
        weights: see `vedit.editor.checkpoint.load_trained`.

    Returns:
        What was written, a line each.

    Raises:
        ConfigError: if the format is none of these, the output is not empty, or the editor has no
            counterpart in that format.
        WeightsError: if there is no such checkpoint.
    """
    if format not in FORMATS:
        raise ConfigError(
            f"--format: '{format}' is none of {', '.join(FORMATS)}.{nearest(format, FORMATS)}"
        )
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output: {output} is not empty; name a new folder.")
    trained = load_trained(checkpoint, weights=weights)
    if format == "lora":
        return _adapter(trained, output)
    if format == "vedit":
        return write_own_folder(trained, output, dtype)
    backbone_of(trained.system)
    if format == "diffusers":
        return write_folder(trained, output, dtype)
    return _comfyui(trained.system, output, dtype)


def _adapter(trained: Trained, output: Path) -> list[str]:
    system = trained.system
    method = system.finetune.backbone
    if not isinstance(method, LoRA):
        raise ConfigError(
            f"--format lora: {trained.path} trained no adapter but model.finetune.backbone = "
            f"{type(method).__name__}; use --format diffusers or vedit."
        )
    output.mkdir(parents=True, exist_ok=True)
    lines = [f"{write_adapter(output, method, own_backbone(system))}: the adapter"]
    merge_adapters(system)
    return [*lines, *_rest(system, output, ("tower", "connector"))]


def _comfyui(system: EditSystem, output: Path, dtype: torch.dtype) -> list[str]:
    apart = isinstance(system.finetune.backbone, LoRA) and joined_source(system) is None
    if apart:
        tensors = adapter_tensors(system)
        lines = [f"{write_file(output / 'lora.safetensors', tensors, torch.float32)}: the adapter"]
        merge_adapters(system)
        return [*lines, *_rest(system, output, ("tower", "connector"))]
    path = write_file(output / "diffusion_model.safetensors", whole_tensors(system), dtype)
    return [f"{path}: the transformer", *_rest(system, output, ("tower",))]


def _rest(system: EditSystem, output: Path, text_parts: Sequence[str]) -> list[str]:
    """What is needed besides and has no place in the format, the text projection for example."""
    found = conditioning_tensors(system, text_parts)
    if joined_source(system) is not None and "connector" not in text_parts:  # in the transformer
        found = {k: v for k, v in found.items() if not k.startswith("model.injections.source.")}
    place = write_conditioning(output, found)
    return [] if place is None else [f"{place}: trained parts that this format has no place for"]
