"""Samples whose references differ in size: encoded apart, and put side by side again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vedit.batch import EditBatch
from vedit.errors import DataError
from vedit.padding import padded
from vedit.references import REFERENCE, reference_name

Features: TypeAlias = Callable[[Sequence[str], Mapping[str, Tensor]], dict[str, Tensor]]
"""`ContextEncoder.features`."""

References: TypeAlias = Sequence[Sequence[Tensor]]
"""Of each of B samples R images (3, h, w) in [-1, 1]."""


def shown_of(batch: EditBatch, reads_images: Collection[str]) -> References:
    """The references that an encoder is to be shown.

    Args:
        batch: of B samples.
        reads_images: names of the images that it looks at.

    Returns:
        Those of each sample; nothing where there are none, or where their features are stored.

    Raises:
        DataError: if the batch holds references for the latents alone.
    """
    if REFERENCE not in reads_images or batch.features is not None:
        return ()
    if not batch.shown and (batch.reference is not None or REFERENCE in batch.latents):
        raise DataError(
            f"{batch.keys[0]}: model.context looks at references, but the batch holds none to show "
            "beside the one that is encoded; give EditBatch.shown"
        )
    return batch.shown


def features_apart(
    features: Features,
    instruction: Sequence[str],
    videos: Mapping[str, Tensor],
    shown: References,
) -> dict[str, Tensor]:
    """Features of B samples, at once for those whose references are of the same sizes.

    So a reference is encoded as it would be in any other batch: at its own aspect, without a border
    and uncut.

    Args:
        features: encodes samples that are alike.
        instruction: B instructions.
        videos: name to (B, 3, F, H, W) in [-1, 1].
        shown: references of each sample, or nothing.

    Returns:
        Tensors of B rows each; shorter rows have zeros at the end of their first dimension, as if
        they had been stored.
    """
    alike: dict[object, list[int]] = {}
    for row, images in enumerate(shown):
        alike.setdefault(tuple(image.shape for image in images), []).append(row)
    if len(alike) < 2:
        return features(instruction, {**videos, **_named(shown)})
    found: dict[int, dict[str, Tensor]] = {}
    for rows in alike.values():
        some = {name: video[rows] for name, video in videos.items()}
        some |= _named([shown[row] for row in rows])
        made = features([instruction[row] for row in rows], some)
        for i, row in enumerate(rows):
            found[row] = {name: values[i] for name, values in made.items()}
    return padded([found[row] for row in range(len(shown))])


def _named(shown: References) -> dict[str, Tensor]:
    """References of like sizes by name, (B, 3, 1, h, w) each."""
    return {
        reference_name(number): torch.stack(images).unsqueeze(2)
        for number, images in enumerate(map(list, zip(*shown, strict=True)))
    }
