"""A merged editor as a folder in diffusers' layout.

Where diffusers has a pipeline for the composition (text to video; the source concatenated to the
channels), the folder is that pipeline's. Whatever diffusers has no place for lies in
`conditioning`, and `vedit.yaml` puts everything together again for vedit.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vedit.codecs.wan_vae import WanVAE
from vedit.context.tokenizer import load_tokenizer
from vedit.context.umt5 import UMT5
from vedit.editor.checkpoint import Trained
from vedit.errors import ConfigError
from vedit.export.comfyui import write_file
from vedit.export.conditioning import FOLDER, conditioning_tensors, write_conditioning
from vedit.export.transformer import (
    joined_source,
    merge_adapters,
    own_backbone,
    own_tensors,
    transformer_config,
    transformer_tensors,
)
from vedit.flow.sampler import UniPC
from vedit.released.exported import Settings, write_settings
from vedit.system import EditSystem

SHARD = "10GB"
INJECTED = ("weights", "weights_slice")
CONNECTED = ("projection", "queries")
"""Arguments that name weights of injections, and of connectors, which an export holds itself."""


def write_folder(trained: Trained, output: Path, dtype: torch.dtype) -> list[str]:
    """Merge adapters and write every part of an editor.

    Args:
        trained: the editor; its adapters are merged in place.
        output: folder to write.
        dtype: of the transformer.

    Returns:
        What was written, a line each.

    Raises:
        ConfigError: if a part has no counterpart in diffusers.
    """
    system = trained.system
    merge_adapters(system)
    transformer = _transformer(system, dtype)
    pipeline = _pipeline(system, transformer)
    output.mkdir(parents=True, exist_ok=True)
    if pipeline is not None:
        pipeline.save_pretrained(output, max_shard_size=SHARD)
        lines = [f"{output}: a {type(pipeline).__name__} of diffusers"]
    else:
        transformer.save_pretrained(output / "transformer", max_shard_size=SHARD)
        _write_others(system, output)
        lines = [f"{output / 'transformer'}: a WanTransformer3DModel of diffusers"]
    extra = write_conditioning(output, conditioning_tensors(system))
    if extra is not None and pipeline is None:
        lines.append(f"{extra}: what diffusers has no place for")
    joined = joined_source(system) is not None
    return [*lines, *_finish(trained, output, extra is not None, joined)]


def write_own_folder(trained: Trained, output: Path, dtype: torch.dtype) -> list[str]:
    """Merge adapters and write every part of an editor for vedit alone, whatever its blocks are.

    Args:
        trained: the editor; its adapters are merged in place.
        output: folder to write.
        dtype: of the transformer.

    Returns:
        What was written, a line each.

    Raises:
        ConfigError: if the backbone is no `WanDiT`.
    """
    system = trained.system
    merge_adapters(system)
    backbone = own_backbone(system)
    file = output / "transformer" / "diffusion_pytorch_model.safetensors"
    write_file(file, own_tensors(system), dtype)
    heads = {"num_attention_heads": backbone.heads}
    config = {"_class_name": type(backbone).__name__, **heads, "eps": backbone.eps}
    config["attention_head_dim"] = backbone.head_width
    (file.parent / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    _write_others(system, output)
    lines = [f"{file.parent}: the transformer, with {type(backbone.blocks[0]).__name__}"]
    extra = write_conditioning(output, conditioning_tensors(system))
    lines += [] if extra is None else [f"{extra}: injections, and of the context encoder the rest"]
    return [*lines, *_finish(trained, output, extra is not None, joined=False)]


def _finish(trained: Trained, output: Path, extra: bool, joined: bool) -> list[str]:
    """Write the settings, and say where what is not in the folder lies."""
    kept = _kept_elsewhere(trained.system)
    lines = [] if kept is None else [f"{kept}: the context encoder, which stays there"]
    settings = write_settings(output, _settings(trained, extra, joined))
    return [*lines, f"{settings}: the composition; vedit reads {output} with it"]


def _transformer(system: EditSystem, dtype: torch.dtype) -> Any:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(**transformer_config(system))
    found = {k: v.to("cpu", dtype).contiguous() for k, v in transformer_tensors(system).items()}
    model.load_state_dict(found, strict=True, assign=True)
    return model


def _pipeline(system: EditSystem, transformer: Any) -> Any:
    """The pipeline of diffusers for this composition, None if it has none."""
    from diffusers import LucyEditPipeline, WanPipeline

    slots = set(system.make_injections)
    text = isinstance(system.context, UMT5) and "instruction" in slots
    joined = joined_source(system) is not None
    if not text or not isinstance(system.codec, WanVAE) or slots - {"instruction", "source"}:
        return None
    if "source" in slots and not joined:
        return None
    make = LucyEditPipeline if joined else WanPipeline
    assert isinstance(system.context, UMT5)
    return make(
        tokenizer=load_tokenizer(system.context.tokenizer),
        text_encoder=system.context.tower,
        vae=system.codec.vae,
        scheduler=_scheduler(system),
        transformer=transformer,
    )


def _scheduler(system: EditSystem) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    shift = system.sampler.shift
    if isinstance(system.sampler, UniPC):
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def _write_others(system: EditSystem, output: Path) -> None:
    """The parts beside the transformer, where no pipeline writes them."""
    if isinstance(system.codec, WanVAE):
        system.codec.vae.save_pretrained(output / "vae")
    if isinstance(system.context, UMT5):
        tower: Any = system.context.tower
        tower.save_pretrained(output / "text_encoder")
        load_tokenizer(system.context.tokenizer).save_pretrained(output / "tokenizer")
    _scheduler(system).save_pretrained(output / "scheduler")


def _kept_elsewhere(system: EditSystem) -> str | None:
    """Where the weights of a context encoder lie that this folder does not hold."""
    context = system.context
    return None if context is None or isinstance(context, UMT5) else context.weights


def _settings(trained: Trained, extra: bool, joined: bool) -> Settings:
    config, size = trained.system.config or {}, trained.size
    data = config.get("data") or {}
    return Settings(
        model=_model(trained.system, extra, joined),
        size=None if size is None else (size.frames, size.height, size.width),
        reference=(data.get("init_args") or data).get("reference"),
    )


def _model(system: EditSystem, extra: bool, joined: bool) -> dict[str, Any]:
    """The model part of the configuration, its weights those of the exported folder."""
    if system.config is None:
        raise ConfigError("this editor does not know its configuration; export a run of vedit fit")
    given = copy.deepcopy(system.config["model"])
    model: dict[str, Any] = dict(given.get("init_args") or given)
    for key in ("finetune", "init_from", "init_without", "lr_scheduler"):
        model.pop(key, None)
    if extra:
        model["init_from"] = f"./{FOLDER}"
        for slot in system.make_injections:
            _without(INJECTED, model.get(slot) or (model.get("extra") or {}).get(slot))
        if not isinstance(system.context, UMT5):
            _without(CONNECTED, model.get("context"))
    half = {"input_half": "first" if joined else None}
    _arguments(model["backbone"]).update(weights="./transformer", **half)
    if isinstance(system.codec, WanVAE):
        _arguments(model["codec"]).update(weights="./vae", config=None)
    if isinstance(system.context, UMT5):
        places = {"weights": "./text_encoder", "tokenizer": "./tokenizer"}
        _arguments(model["context"]).update(places, projection="./transformer")
    loaded: dict[str, Any] = json.loads(json.dumps(model))
    return loaded


def _without(names: Sequence[str], part: Any) -> None:
    """Take out where a part started from; what it became is in the export."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in names:
            part[key] = None
        _without(names, value)


def _arguments(part: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = part.setdefault("init_args", {})
    return arguments
