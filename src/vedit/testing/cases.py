"""Recorded cases: inputs, options, and what other code computed from them.

A folder holds weights and ``cases.safetensors``, whose keys are ``i.NAME`` for
case i, and ``cases.json``, options for each case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedit.batch import Conditions
from vedit.errors import DataError
from vedit.tokens import Context


@dataclass(frozen=True)
class Case:
    """One recorded case.

    Attributes:
        name: its number, with what distinguishes it.
        tensors: by name, without the number.
        options: from ``cases.json``.
    """

    name: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]


def read_cases(folder: Path) -> list[Case]:
    """The cases of a folder.

    Args:
        folder: with both files; ``cases.json`` is a list of options, or has one under "cases".

    Returns:
        The cases in order.

    Raises:
        DataError: if a file is missing or broken, or the two do not agree.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    names = ("cases.json", "cases.safetensors")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder}: holds no {' and no '.join(missing)}; expected recorded cases.")
    try:
        content = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "cases.safetensors")
    except (ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: the recorded cases cannot be read ({error}).") from error
    options = content["cases"] if isinstance(content, dict) else content
    grouped: list[dict[str, Tensor]] = [{} for _ in options]
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdigit() or int(number) >= len(options):
            raise DataError(
                f"{folder / 'cases.safetensors'}: {key}: expected 0 to {len(options) - 1}, a dot "
                "and a name: cases.json lists so many cases."
            )
        grouped[int(number)][name] = value
    pairs = zip(grouped, options, strict=True)
    return [Case(str(i), found, option) for i, (found, option) in enumerate(pairs)]


def references_of(case: Case) -> Tensor | None:
    """The references of a case along time, (B, C, R, h, w); None without any.

    Args:
        case: with `reference.0`, `reference.1` and so on, each (B, C, 1, h, w).

    Returns:
        References in the order of their numbers.
    """
    names = [f"reference.{k}" for k in range(len(case.tensors))]
    found = [case.tensors[name] for name in names if name in case.tensors]
    return torch.cat(found, dim=2) if found else None


def conditions_of(case: Case) -> Conditions:
    """What the denoiser of a case is conditioned on.

    Args:
        case: with `context` (B, L, D) and possibly `source` and references.

    Returns:
        Latents of what the case has, and the context.
    """
    latents = {"source": case.tensors.get("source"), "reference": references_of(case)}
    present = {name: value for name, value in latents.items() if value is not None}
    return Conditions(present, Context(case.tensors["context"]))
