"""Checkpoint files, read with one line for each way in which a file can be none."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vedit.errors import WeightsError


def read_checkpoint(path: str | Path, device: str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """What a file holds that `vedit fit` wrote.

    Args:
        path: the file.
        device: where its tensors go; "meta" reads shapes alone.
        mmap: whether tensors stay on disk until they are used.

    Returns:
        Everything in the file, `state_dict` among it.

    Raises:
        WeightsError: if it is no such file, or is cut short.
    """
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
