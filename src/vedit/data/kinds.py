"""Kinds of samples, and how a sample of one kind stands in for another.

A curriculum trains on images, on videos, and on videos with a reference. Where the data have none
of a kind, others can be shown as it: a video by its first frame, or without its reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from torch import Tensor

from vedit.data.collate import EditSample
from vedit.data.schema import SampleRecord

Kind = Literal["image", "video", "reference"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(record: SampleRecord) -> str:
    """What a sample is: "reference" if it has any, else its task, such as "video"."""
    return "reference" if record.has_reference else record.task


def stands_in(record: SampleRecord, kind: str) -> bool:
    """Whether a sample can be shown as a kind that it is not itself.

    Args:
        record: of the sample.
        kind: to show it as.

    Returns:
        Any sample can be shown as an image, any of several frames as a video.
    """
    return kind_of(record) != kind and (kind == "image" or (kind == "video" and record.frames > 1))


def record_as(record: SampleRecord, kind: str | None) -> SampleRecord:
    """The record of a sample as it is shown."""
    if kind is None or not stands_in(record, kind):
        return record
    frames = 1 if kind == "image" else record.frames
    return replace(record, task=kind, frames=frames, has_reference=False, more_references=0)


def sample_as(sample: EditSample, kind: str) -> EditSample:
    """A sample shown as another kind: its first frame alone, or without its reference.

    Codecs are causal in time, so the first latent frame is that of the first frame alone.

    Args:
        sample: as it was read.
        kind: to show it as.

    Returns:
        The sample; features stay only where they do not depend on what was left out, see
        `EditDataset`.
    """
    videos, latents = _without_reference(sample.videos), _without_reference(sample.latents)
    if kind == "image":
        videos, latents = _first_frame(videos), _first_frame(latents)
    return replace(sample, task=kind, videos=videos, latents=latents, reference=None, shown=())


def _without_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "reference"}


def _first_frame(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of videos (3, F, H, W) and of latents (C, t, h, w)."""
    return {name: tensor[:, :1] for name, tensor in tensors.items()}
