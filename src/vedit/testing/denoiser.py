"""A published denoiser, built by the package's own loading code, against recorded velocities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from vedit.conditioning.add import SigmaScaledAdd
from vedit.editor.checkpoint import make_system
from vedit.errors import WeightsError
from vedit.model import EditModel
from vedit.released import recognise
from vedit.released.part import Tree
from vedit.testing.cases import Case, conditions_of


def denoiser(folder: Path, reference_first: bool = False) -> EditModel:
    """The denoiser of a folder, through its configuration.

    Args:
        folder: of a published model.
        reference_first: put references in front of the video, whatever the folder's config says.

    Returns:
        The backbone with its injections, in evaluation mode.

    Raises:
        WeightsError: if the folder is no model, or its weights do not fit.
    """
    model = recognise(folder)
    if model is None:
        raise WeightsError(f"{folder}: holds no model; expected transformer/config.json in it.")
    if reference_first and "reference" in model:
        model["reference"]["init_args"]["time"] = "before"
    return build(model, str(folder))


def build(model: Tree, where: str) -> EditModel:
    """The denoiser that the model part of a configuration describes, contexts being given.

    Args:
        model: arguments of `EditSystem`.
        where: names the place in errors.

    Returns:
        The backbone with its injections, in evaluation mode.
    """
    # A system wants an encoder for what it attends to; here the tokens come from the case.
    encoder = {"class_path": "vedit.context.umt5.UMT5", "init_args": {}}
    system = make_system({**model, "context": encoder}, where)
    return EditModel.build(system.make_backbone, system.make_injections).eval()


@torch.no_grad()
def velocity_of(model: EditModel, case: Case) -> Tensor:
    """The velocity (B, C, t, h, w) that a denoiser computes for a case.

    Args:
        model: from `denoiser`.
        case: with `noisy`, `timestep` in [0, 1000], `sigma` and the conditions.

    Returns:
        The velocity, on the grid of the noisy latents.
    """
    given = case.tensors
    with source_gain(model, given.get("sigma")):
        return model(given["noisy"], given["timestep"].float() / 1000, conditions_of(case))


@contextmanager
def source_gain(model: EditModel, gain: Tensor | None) -> Iterator[None]:
    """Let the source's gain be a recorded one.

    Code that looks its gain up on a rounded grid has one that is not quite timestep / 1000.

    Args:
        model: whose slot "source" may scale by the noise level.
        gain: (B,); None leaves the slot's own.
    """
    source = dict(model.injections.items()).get("source")
    if gain is None or not isinstance(source, SigmaScaledAdd):
        yield
        return
    setattr(source, "scale", lambda sigma: gain.to(sigma))  # noqa: B010 (its documented hook)
    try:
        yield
    finally:
        del source.scale
