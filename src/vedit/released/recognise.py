"""A folder of published weights to the model part of a configuration.

Layouts are told apart by their parts, never by a system's name:

- a Wan model in diffusers' layout (`transformer`, `vae`, `text_encoder`, `tokenizer`), or its
  transformer folder alone;
- the same with an input convolution over 2C channels: the source is concatenated (Lucy Edit);
- an editor with `source_embedder`, `ref_embedder` and `mllm_encoder` beside the transformer
  (Kiwi-Edit's diffusers release);
- what `vedit export` wrote, with the settings beside it.

A part that is not there is left out, and `Released.absent` says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vedit.errors import WeightsError
from vedit.folders import model_folder
from vedit.released import parts
from vedit.released.exported import read_settings
from vedit.released.part import Tree, part
from vedit.released.transformer import Transformer, find_transformer

log = logging.getLogger(__name__)

EMBEDDERS = ("source_embedder", "ref_embedder")
EDITOR = (*EMBEDDERS, "mllm_encoder")
"""Any of these folders makes the layout that of an editor."""

SIZES = {48: (81, 704, 1280), 16: (81, 480, 832)}
"""Frames, height and width at which models of so many latent channels are published."""


@dataclass(frozen=True)
class Released:
    """What a folder of published weights amounts to.

    Attributes:
        folder: that was looked at.
        model: the model part of a configuration, its weights pointing into the folder.
        absent: parts that the layout has and this folder lacks, each with what that means.
        needed: those of them without which no video can be edited.
        size: frames, height and width it was made for, None if unknown.
        reference: how reference images are brought to the size of a clip, as `data.reference` of a
            configuration; None is a letterbox on black.
    """

    folder: Path
    model: Tree
    absent: dict[str, str]
    needed: tuple[str, ...]
    size: tuple[int, int, int] | None
    reference: Tree | None = None

    def require_complete(self) -> None:
        """Refuse a folder that cannot edit.

        Raises:
            WeightsError: naming the parts that are missing.
        """
        if self.needed:
            what = "; ".join(f"{name}: {self.absent[name]}" for name in self.needed)
            raise WeightsError(f"{self.folder}: is not complete: {what}.")


def recognise(folder: str | Path) -> Tree | None:
    """The model part of a configuration that a folder of published weights stands for.

    Args:
        folder: a local folder, or a hub id, which is fetched.

    Returns:
        Arguments of `EditSystem`, with `weights` pointing into the folder; None if it is no model.

    Raises:
        WeightsError: if it is a model that vedit cannot run.
    """
    found = read_released(folder)
    if found is None:
        return None
    for name, meaning in found.absent.items():
        log.info("%s: no %s: %s", found.folder, name, meaning)
    return found.model


def read_released(folder: str | Path) -> Released | None:
    """As `recognise`, with what is missing and the size of video.

    Args:
        folder: a local folder, or a hub id, which is fetched.

    Returns:
        What was found; None if the folder is no model.

    Raises:
        WeightsError: if it is a model that vedit cannot run.
    """
    folder = model_folder(folder)
    if (exported := read_settings(folder)) is not None:
        return Released(folder, exported.model, {}, (), exported.size, exported.reference)
    found = find_transformer(folder) if folder.is_dir() else None
    if found is None:
        return None
    if (folder / "transformer_2").is_dir():
        raise WeightsError(
            f"{folder}: has two transformers, one for each range of noise levels; vedit runs one: "
            "name the folder transformer or transformer_2 itself."
        )
    absent: dict[str, str] = {}
    is_editor = any(parts.has(folder, name) for name in EDITOR)
    composed = (_editor if is_editor else _wan)(folder, found, absent)
    vae = folder / "vae" if parts.has(folder, "vae") else None
    if vae is None:
        absent["vae"] = "without it videos cannot be encoded or decoded"
    model = {"backbone": found.backbone, "codec": parts.codec(vae, found.channels), **composed}
    sampler = parts.sampler(folder, own=is_editor)
    model |= {"sampler": sampler, "optimizer": part("torch.optim.AdamW", lr=1e-5)}
    needed = tuple(name for name in absent if name not in EMBEDDERS)
    # Such editors were trained with references on white.
    ground = part("data.transforms.Letterbox", ground=1.0) if "reference" in model else None
    return Released(folder, model, absent, needed, SIZES.get(found.channels), ground)


def _wan(folder: Path, found: Transformer, absent: dict[str, str]) -> dict[str, Any]:
    there = {"text_encoder": parts.has(folder, "text_encoder")}
    there["tokenizer"] = (folder / "tokenizer").is_dir()
    for name, found_it in there.items():
        if not found_it:
            absent[name] = "without it instructions cannot be encoded"
    model = {
        "context": parts.text_encoder(folder, found),
        "instruction": part("conditioning.cross.CrossAttend"),
        "noise_levels": part("flow.noise_levels.LogitNormal", shift=parts.SHIFT),
        "weighting": part("flow.weighting.NoWeighting"),
        "guidance": 5.0,
    }
    if found.joined:
        model["source"] = parts.source_concatenated(found)
    return model


def _editor(folder: Path, found: Transformer, absent: dict[str, str]) -> dict[str, Any]:
    """Trained without dropping the instruction, so sampled without guidance."""
    model = {
        "instruction": part("conditioning.cross.CrossAttend"),
        "noise_levels": part("flow.noise_levels.ShiftedGrid", shift=parts.SHIFT),
        "weighting": part("flow.weighting.Bell", shift=parts.SHIFT),
        "guidance": 1.0,
    }
    if parts.has(folder, "mllm_encoder"):
        model["context"] = parts.query_encoder(folder)
    else:
        absent["mllm_encoder"] = "without it instructions cannot be encoded"
    slots = {"source_embedder": "source", "ref_embedder": "reference"}
    for name, slot in slots.items():
        if not parts.has(folder, name):
            absent[name] = f"the model takes no {slot}"
            continue
        if not parts.has_weights(folder / name):
            absent[name] = f"no weights in it: the {slot} has no effect before training"
        make = parts.source_added if slot == "source" else parts.reference_appended
        model[slot] = make(folder / name)
    return model
