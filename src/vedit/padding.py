"""Samples of different lengths in one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def padded(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack samples by name; shorter ones get zeros at the end of their first dimension.

    Args:
        samples: the same names in each, and tensors that differ in no other dimension.

    Returns:
        Tensors of as many rows as there are samples.
    """
    stacked = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if values[0].ndim:
            longest = max(len(value) for value in values)
            values = [_lengthened(value, longest) for value in values]
        stacked[name] = torch.stack(values)
    return stacked


def _lengthened(value: Tensor, length: int) -> Tensor:
    if len(value) == length:
        return value
    return F.pad(value, (0, 0) * (value.ndim - 1) + (0, length - len(value)))
