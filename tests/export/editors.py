"""Tiny trained editors as checkpoints, over a pretrained transformer of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from tests import tiny_run
from tests.tiny_run import part
from tests.wan import randomised
from torch import Tensor

from vedit.batch import Conditions
from vedit.editor.checkpoint import make_system
from vedit.system import EditSystem

SIZES: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 32,
    "in_channels": 4,
    "text_dim": 128,
    "freq_dim": 16,
}
LORA = part(
    "vedit.finetune.lora.LoRA", rank=2, alpha=5.0, targets=["to_q", "to_out.0", "ffn.net.2"]
)
CONCAT = part("vedit.conditioning.add.ConcatChannels")
APPEND = part("vedit.conditioning.append.AppendTokens")


def configuration(folder: Path, **slots: Any) -> dict[str, Any]:
    """A text-to-video model, but for the slots given, with pretrained weights in `folder`."""
    base = folder / "base"
    if not base.is_dir():
        randomised(WanTransformer3DModel(out_channels=4, **SIZES)).save_pretrained(base)
    given = {"source": None, "mask": None, "reference": None, "finetune": {"backbone": LORA}}
    model = tiny_run.model(folder, **{**given, **slots})
    model["backbone"] = part("vedit.backbones.wan.WanDiT", **SIZES, weights=str(base))
    model["context"]["init_args"]["projection"] = str(base)
    return model


def trained(folder: Path, **slots: Any) -> tuple[Path, EditSystem]:
    """A checkpoint of a tiny editor with these slots, see `shaken`."""
    return shaken(folder, configuration(folder, **slots))


def shaken(folder: Path, model: dict[str, Any]) -> tuple[Path, EditSystem]:
    """A checkpoint whose trained tensors are random, and the system that it holds."""
    system = make_system(model, "test")
    system.configure_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    path = folder / "last.ckpt"
    torch.save({"state_dict": system.trained_state(), "config": {"model": model}}, path)
    return path, system.eval()


def inputs(system: EditSystem, frames: int = 2) -> tuple[Tensor, Tensor, Conditions]:
    """Noisy latents, noise levels and every condition of a system, for one sample."""
    generator = torch.Generator().manual_seed(2)

    def latents(count: int) -> Tensor:
        return torch.randn(1, 4, count, 4, 6, generator=generator)

    names = [name for name in system.make_injections if name != "instruction"]
    given = {name: latents(1 if name == "reference" else frames) for name in names}
    with torch.no_grad():
        context = system.context(("make it blue",), {})
    return latents(frames), torch.tensor([0.7]), Conditions(given, context)


def velocity(system: EditSystem) -> Tensor:
    """What a system predicts for `inputs`."""
    with torch.no_grad():
        return system(*inputs(system))


def text_features(system: EditSystem) -> Tensor:
    """The padded features (1, L, E) of the instruction in `inputs`, before Wan's projection."""
    with torch.no_grad():
        found = system.context.features(("make it blue",), {})["text"]
    missing = system.context.max_tokens - found.shape[1]
    return torch.nn.functional.pad(found, (0, 0, 0, missing))


def published(transformer: WanTransformer3DModel, system: EditSystem) -> Tensor:
    """What diffusers' transformer predicts for `inputs`, a source behind the target's channels."""
    x, sigma, conditions = inputs(system)
    if "source" in conditions.latents:
        x = torch.cat([x, conditions.latents["source"]], dim=1)
    with torch.no_grad():
        return transformer(x, 1000 * sigma, text_features(system)).sample
