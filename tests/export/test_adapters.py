"""Adapters leave vedit for diffusers and ComfyUI's names, and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file
from tests.export.editors import APPEND, LORA, SIZES, configuration, published, trained, velocity
from tests.tiny_run import part

from vedit.cli import main
from vedit.editor.checkpoint import make_system
from vedit.export.export import export
from vedit.system import EditSystem

TOLERANCE = 1e-5
ADAPTER = "pytorch_lora_weights.safetensors"


def loaded_by_diffusers(folder: Path, file: Path) -> WanTransformer3DModel:
    """The pretrained transformer in `folder` with an adapter on it, as a user would load it."""
    transformer = WanTransformer3DModel.from_pretrained(folder / "base")
    pipeline = WanPipeline(None, None, None, None, transformer)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    return pipeline.transformer


def started(folder: Path, init_from: Path, **slots: Any) -> EditSystem:
    system = make_system({**configuration(folder, **slots), "init_from": str(init_from)}, "test")
    system.configure_model()
    return system.eval()


def test_diffusers_loads_the_adapter(tmp_path: Path) -> None:
    path, system = trained(tmp_path)
    assert main(["export", "--checkpoint", str(path), "--format", "lora",
                 "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    transformer = loaded_by_diffusers(tmp_path, tmp_path / "out" / ADAPTER)
    expected = velocity(system)
    torch.testing.assert_close(published(transformer, system), expected, atol=TOLERANCE, rtol=0)
    base = WanTransformer3DModel.from_pretrained(tmp_path / "base")
    assert (published(base, system) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("alpha", [5.0, 2.0])
def test_the_adapter_comes_back(alpha: float, tmp_path: Path) -> None:
    path, system = trained(tmp_path)
    export(path, "lora", tmp_path / "out")
    method = part("vedit.finetune.lora.LoRA", **{**LORA["init_args"], "alpha": alpha})
    plan = {"backbone": method}
    again = started(tmp_path, tmp_path / "out" / ADAPTER, finetune=plan)
    torch.testing.assert_close(velocity(again), velocity(system), atol=5e-6, rtol=0)
    if alpha == 5.0:
        for name, value in system.trained_state().items():
            torch.testing.assert_close(again.trained_state()[name], value, atol=1e-6, rtol=0)


def test_what_diffusers_saves_comes_back(tmp_path: Path) -> None:
    """vedit to diffusers, saved there by diffusers itself, and back."""
    path, system = trained(tmp_path)
    export(path, "lora", tmp_path / "out")
    transformer = loaded_by_diffusers(tmp_path, tmp_path / "out" / ADAPTER)
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(
        transformer, adapter_name=next(iter(transformer.peft_config))
    )
    scaled = {k: v * 2.5 if "lora_B" in k else v for k, v in layers.items()}  # no header says alpha
    WanPipeline.save_lora_weights(tmp_path / "theirs", scaled)
    again = started(tmp_path, tmp_path / "theirs" / ADAPTER)
    torch.testing.assert_close(velocity(again), velocity(system), atol=5e-6, rtol=0)


def test_trained_injections_lie_beside_the_adapter(tmp_path: Path) -> None:
    path, system = trained(tmp_path, source=APPEND)
    lines = export(path, "lora", tmp_path / "out")
    assert "conditioning: trained parts that this format has no place for" in lines[1]
    found = load_file(tmp_path / "out" / "conditioning" / "model.safetensors")
    weight = system.model.injections["source"].embed.proj.weight
    torch.testing.assert_close(found["model.injections.source.embed.proj.weight"], weight)


@pytest.mark.parametrize(("format", "source"), [("lora", None), ("comfyui", None),
                                                ("comfyui", "ConcatChannels")])  # fmt: skip
def test_trained_text_parts_lie_beside_it(format: str, source: str | None, tmp_path: Path) -> None:
    """The connector too, unless the whole transformer, which holds it, is written."""
    full = part("vedit.finetune.full.Full")
    slots = {"reference": APPEND} | (
        {} if source is None else {"source": part(f"vedit.conditioning.add.{source}")}
    )
    plan = {"backbone": LORA, "tower": full, "connector": full}
    path, system = trained(tmp_path, finetune=plan, **slots)
    export(path, format, tmp_path / "out")
    found = load_file(tmp_path / "out" / "conditioning" / "model.safetensors")
    kinds = {".".join(name.split(".")[: 3 if name.startswith("model") else 2]) for name in found}
    expected = {"context.tower", "model.injections.reference"}
    assert kinds == expected | (set() if source else {"context.connector"})
    for name, value in system.context.connector.state_dict().items():
        if source is None:
            torch.testing.assert_close(found[f"context.connector.{name}"], value)


def test_comfyui_names_of_an_adapter(tmp_path: Path) -> None:
    path, system = trained(tmp_path)
    export(path, "comfyui", tmp_path / "out")
    file = tmp_path / "out" / "lora.safetensors"
    names = load_file(file)
    assert all(name.startswith("diffusion_model.blocks.") for name in names)
    assert float(names["diffusion_model.blocks.0.self_attn.o.alpha"]) == 5.0
    transformer = loaded_by_diffusers(tmp_path, file)
    expected = velocity(system)
    torch.testing.assert_close(published(transformer, system), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("source", [None, part("vedit.conditioning.add.ConcatChannels")])
def test_comfyui_names_of_a_whole_transformer(source: dict | None, tmp_path: Path) -> None:
    plan = {"backbone": LORA if source else part("vedit.finetune.full.Full")}
    path, system = trained(tmp_path, source=source, finetune=plan)
    export(path, "comfyui", tmp_path / "out")
    names = load_file(tmp_path / "out" / "diffusion_model.safetensors")
    assert all(name.startswith("model.diffusion_model.") for name in names)
    assert "model.diffusion_model.blocks.1.modulation" in names
    sizes = {**SIZES, "in_channels": 8 if source else 4}
    transformer = WanTransformer3DModel(out_channels=4, **sizes)
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(names), strict=True)
    torch.testing.assert_close(
        published(transformer, system), velocity(system), atol=TOLERANCE, rtol=0
    )
