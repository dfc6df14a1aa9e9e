"""Edited samples on their way from the ranks that made them to the report.

Each sample is a file of its own, so that any number of ranks may write, and a report may read
clip by clip without holding everything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_SUFFIX = ".pt"


@dataclass(frozen=True)
class EditedSample:
    """One sample of a test set and what the model made of it.

    Attributes:
        key: Name of the sample.
        clip: Name of the file that the source was taken from.
        edit: Name of the edit, or the instruction where edits have no names.
        instruction: What the model was told.
        source: uint8 (F, H, W, 3).
        output: The same shape.
        target: The same shape.
        mask: The same shape, white inside; None for an edit of the whole frame.
    """

    key: str
    clip: str
    edit: str
    instruction: str
    source: Tensor
    output: Tensor
    target: Tensor
    mask: Tensor | None = None

    @property
    def case(self) -> str:
        """Digest of what the edits of a clip share: its source, and the region to edit."""
        digest = hashlib.sha256(self.source.numpy().tobytes())
        if self.mask is not None:
            digest.update(self.mask.numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Case:
    """One source clip and all that was asked of it.

    Attributes:
        name: File name without suffix, numbered if a file gave several clips.
        files: A file for each of its samples, ordered by key.
    """

    name: str
    files: tuple[Path, ...]

    def samples(self) -> dict[str, EditedSample]:
        """Read the samples, by edit; an edit that occurs twice is numbered."""
        found: dict[str, EditedSample] = {}
        for file in self.files:
            sample = read_part(file)
            name, number = sample.edit, 2
            while name in found:
                name, number = f"{sample.edit} {number}", number + 1
            found[name] = sample
        return found


def write_part(folder: Path, sample: EditedSample) -> Path:
    """Store a sample under its key; a key that comes twice is stored once."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(sample.key.encode()).hexdigest()[:24]
    path = folder / f"{name}{_SUFFIX}"
    # Two ranks may hold the same key (samplers pad to equal lengths).
    partial = path.with_suffix(f".partial{os.getpid()}")
    torch.save({"case": sample.case, **vars(sample)}, partial)
    os.replace(partial, path)
    return path


def read_part(path: Path) -> EditedSample:
    """Read a stored sample."""
    content = _load(path)
    content.pop("case")
    return EditedSample(**content)


def cases(folder: Path) -> list[Case]:
    """Group stored samples by source clip, whatever rank wrote them and in which order."""
    heads = sorted(_heads(folder))
    groups: dict[tuple[str, str], list[Path]] = {}
    for _, clip, case, path in heads:
        groups.setdefault((clip, case), []).append(path)
    windows: dict[str, int] = {}
    for clip, _ in groups:
        windows[clip] = windows.get(clip, 0) + 1
    seen: dict[str, int] = {}
    found = []
    for (clip, _), files in groups.items():
        seen[clip] = seen.get(clip, 0) + 1
        stem = Path(clip).stem or "clip"
        name = f"{stem}-{seen[clip]}" if windows[clip] > 1 else stem
        found.append(Case(name, tuple(files)))
    return found


def clear(folder: Path) -> None:
    """Remove the samples of an earlier test."""
    for path in folder.glob(f"*{_SUFFIX}"):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _heads(folder: Path) -> Iterator[tuple[str, str, str, Path]]:
    for path in folder.glob(f"*{_SUFFIX}"):
        content = _load(path)
        yield content["key"], content["clip"], content["case"], path


def _load(path: Path) -> dict:
    return torch.load(path, weights_only=True, mmap=True)
