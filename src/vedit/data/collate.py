"""Samples of one bucket to one `EditBatch`, samples of any shapes to one `UnlikeBatch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vedit.batch import EditBatch, UnlikeBatch
from vedit.errors import DataError
from vedit.padding import padded


@dataclass(frozen=True)
class EditSample:
    """One sample, decoded or as cached latents; the fields are those of `EditBatch` less B."""

    key: str
    instruction: str
    edit: str = ""
    clip: str = ""
    task: str = "video"
    videos: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Tensor | None = None
    shown: tuple[Tensor, ...] = ()
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] | None = None


def collate(samples: Sequence[EditSample]) -> EditBatch:
    """Stack samples.

    Args:
        samples: One at least.

    Returns:
        Their batch of B samples, each tensor with B rows.

    Raises:
        DataError: They differ in shape, in what they are conditioned on, or in kind.
    """
    first = samples[0]
    for sample in samples[1:]:
        if _kind(sample) != _kind(first):
            raise DataError(
                f"{sample.key}: cannot share a batch with {first.key}: it has "
                f"{_kind(sample)}, the other {_kind(first)}."
            )
    references = [s.reference for s in samples if s.reference is not None]
    features = [s.features for s in samples if s.features is not None]
    return EditBatch(
        instruction=tuple(s.instruction for s in samples),
        keys=tuple(s.key for s in samples),
        videos=_stacked([s.videos for s in samples]),
        reference=torch.stack(references) if references else None,
        shown=tuple(s.shown for s in samples) if first.shown else (),
        latents=_stacked([s.latents for s in samples]),
        features=padded(features) if features else None,
        edits=tuple(s.edit for s in samples),
        clips=tuple(s.clip for s in samples),
        task=first.task,
    )


def collate_unlike(samples: Sequence[EditSample]) -> UnlikeBatch:
    """Keep samples apart that a model packs side by side.

    Args:
        samples: One at least.

    Returns:
        Their batch, a part for each.
    """
    return UnlikeBatch(tuple(collate([sample]) for sample in samples))


def _kind(sample: EditSample) -> tuple[object, ...]:
    """What must agree within a batch."""
    return (
        sample.task,
        {name: tuple(v.shape) for name, v in sample.videos.items()},
        {name: tuple(v.shape) for name, v in sample.latents.items()},
        None if sample.reference is None else tuple(sample.reference.shape),
        len(sample.shown),
        None if sample.features is None else sorted(sample.features),
    )


def _stacked(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}
