"""Checkpoint files, read with one line for each way in which a file can be none."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedit.errors import WeightsError
from vedit.parallel.checkpoint import Kept, is_sharded, read_rest, read_whole
from vedit.parallel.optimizer_state import NamedState, is_whole, numbered


def is_checkpoint(path: str | Path) -> bool:
    """Whether it is a file, or a folder of pieces that several ranks wrote."""
    return Path(path).is_file() or is_sharded(path)


def read_checkpoint(
    path: str | Path, device: str = "cpu", mmap: bool = False, resume: bool = False
) -> dict[str, Any]:
    """What a checkpoint holds that `vedit fit` wrote.

    Args:
        path: the file, or the folder that several ranks wrote.
        device: where its tensors go; "meta" reads shapes alone.
        mmap: whether the tensors of a file stay on disk until they are used.
        resume: whether the optimizer's state is needed too, which folders read apart.

    Returns:
        Everything in it, `state_dict` among it.

    Raises:
        WeightsError: if it is no such file or folder, or is cut short.
    """
    if is_sharded(path):
        return _joined(path, device, resume)
    if Path(path).is_dir():
        raise WeightsError(f"{path}: a folder that is no checkpoint, or one that is cut short.")
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path}: not a readable checkpoint, it is no file of torch or is cut short; "
            "expected one that `vedit fit` wrote."
        )
    try:
        found = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path}: not a readable checkpoint ({reason}).") from error
    if not isinstance(found, Mapping) or "state_dict" not in found:
        raise WeightsError(
            f"{path}: holds no 'state_dict'; expected a checkpoint that `vedit fit` wrote."
        )
    return dict(found)


def _joined(path: str | Path, device: str, resume: bool) -> dict[str, Any]:
    """A folder of pieces in the form of a file."""

    def whole(kept: Kept) -> Tensor:
        return torch.empty(kept.shape, dtype=kept.dtype, device=device)

    found = read_rest(path, whole, alone=True)
    optimizers = found.pop("optimizers", [])
    found["state_dict"] = read_whole(path, "state_dict.", device)
    if resume:
        states = [read_whole(path, f"optimizer.{i}.") for i in range(len(optimizers))]
        found["optimizer_states"] = [
            numbered(NamedState(tensors, rest), is_whole(rest))
            for tensors, rest in zip(states, optimizers, strict=True)
        ]
    return found
