"""Checkpoints in pieces: a folder into which every rank writes what it holds.

The pieces are in the format of `torch.distributed.checkpoint`, so they can be read by any number of
ranks, each taking what it needs, and by a single process that belongs to no group. Everything else
(the configuration, the state of loops, callbacks and data) lies in one small file beside them.
Names of tensors are flat: "state_dict.KEY", "optimizer.0.PARAMETER.exp_avg" and so on.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from vedit.errors import WeightsError

PIECES, REST = ".metadata", "meta.pt"
MARK = "tensor in pieces"
"""The key of what stands for a tensor in the rest."""


@dataclass(frozen=True)
class Kept:
    """A tensor in a folder.

    Attributes:
        shape: of the whole.
        dtype: as stored.
    """

    shape: torch.Size
    dtype: torch.dtype


def is_sharded(path: str | Path) -> bool:
    """Whether a path is a folder that `write_sharded` wrote to its end."""
    return (Path(path) / PIECES).is_file() and (Path(path) / REST).is_file()


def write_sharded(path: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Write a folder; all ranks call it with the same names.

    It is written beside its place and moved there when it is whole, so that what was there before
    is good until then.

    Args:
        path: the folder; whatever is there is replaced.
        tensors: by flat name, each in pieces or the same on every rank.
        rest: anything that pickles; the first rank's is kept. Tensors in pieces inside it are kept
            as pieces too.
    """
    named = dict(tensors)
    remainder = _taken_out(rest, named)
    first, fresh = distributed.get_rank() == 0, path.with_name(f".{path.name}.new")
    if first:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    distributed.barrier()
    with _quiet():
        save(named, storage_writer=FileSystemWriter(fresh))
    if first:
        torch.save(remainder, fresh / REST)
        _put(fresh, path)
    distributed.barrier()


def _put(fresh: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.is_dir() and not path.is_symlink():
        os.replace(path, old)
    elif path.exists() or path.is_symlink():
        path.unlink()
    os.replace(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def contents(path: str | Path) -> dict[str, Kept]:
    """The tensors of a folder by flat name.

    Args:
        path: for which `is_sharded` holds.

    Returns:
        Shapes and number formats; nothing is read.

    Raises:
        WeightsError: if the folder is damaged.
    """
    with _one_line(path):
        metadata = FileSystemReader(path).read_metadata()
    return {
        name: Kept(stored.size, stored.properties.dtype)
        for name, stored in metadata.state_dict_metadata.items()
        if isinstance(stored, TensorStorageMetadata)
    }


def read_tensors(path: str | Path, into: Mapping[str, Tensor], alone: bool = False) -> None:
    """Fill tensors from a folder.

    Args:
        path: the folder.
        into: by flat name; those in pieces read what is theirs.
        alone: whether this process reads for itself; otherwise all ranks call it together.

    Raises:
        WeightsError: if the folder is damaged.
    """
    if not into:
        return
    with _one_line(path), _quiet():
        load(dict(into), storage_reader=FileSystemReader(path), no_dist=alone)


def read_rest(path: str | Path, make: Callable[[Kept], Tensor], alone: bool) -> dict[str, Any]:
    """Everything but the weights and the optimiser's state.

    Args:
        path: the folder.
        make: an empty tensor for what was in pieces when it was written.
        alone: as in `read_tensors`.

    Returns:
        What `write_sharded` was given.

    Raises:
        WeightsError: if the folder is damaged.
    """
    with _one_line(path):
        rest = torch.load(Path(path) / REST, map_location="cpu", weights_only=True)
    stored = contents(path)
    filled: dict[str, Tensor] = {}
    put_back = _put_back(rest, lambda name: filled.setdefault(name, make(stored[name])))
    read_tensors(path, {n: t for n, t in filled.items() if not t.is_meta}, alone)
    return dict(put_back)


def read_whole(path: str | Path, prefix: str, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a folder whose names begin alike, each whole, read by this process alone.

    Args:
        path: the folder.
        prefix: of the flat names, such as "state_dict."; it is cut off.
        device: "cpu", or "meta" for shapes alone.

    Returns:
        By the rest of their names.

    Raises:
        WeightsError: if the folder is damaged.
    """
    wanted = {name: kept for name, kept in contents(path).items() if name.startswith(prefix)}
    found = {
        name: torch.empty(kept.shape, dtype=kept.dtype, device=device)
        for name, kept in wanted.items()
    }
    if device != "meta":
        read_tensors(path, found, alone=True)
    return {name[len(prefix) :]: tensor for name, tensor in found.items()}


def _taken_out(tree: Any, found: dict[str, Tensor], name: str = "rest") -> Any:
    """The tree with a mark in place of each tensor that lies in pieces."""
    if isinstance(tree, DTensor):
        found[name] = tree
        return {MARK: name}
    if isinstance(tree, dict):
        return {k: _taken_out(v, found, f"{name}.{k}") for k, v in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_taken_out(v, found, f"{name}.{i}") for i, v in enumerate(tree))
    return tree


def _put_back(tree: Any, find: Callable[[str], Tensor]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {MARK}:
            return find(tree[MARK])
        return {k: _put_back(v, find) for k, v in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_put_back(v, find) for v in tree)
    return tree


@contextmanager
def _one_line(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # many kinds for damaged files
        reason = " ".join(str(_cause(error)).split())[:200]
        raise WeightsError(
            f"{path}: not a readable checkpoint, files are missing or cut short "
            f"({type(_cause(error)).__name__}: {reason})."
        ) from error


def _cause(error: BaseException) -> BaseException:
    """What a rank met, where several report together."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word that a single process saves or loads, which is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
        yield
