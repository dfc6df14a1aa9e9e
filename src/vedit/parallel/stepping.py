"""Optimizer steps over parameters of which some lie in pieces and others are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vedit.parallel.optimizer_state import parts_of


@contextmanager
def apart(optimizer: Optimizer) -> Iterator[None]:
    """Let an optimizer step over what lies in pieces and what is whole one after the other.

    Kernels that take all parameters of a group at once (`fused: true`, `foreach: true`) refuse to
    have both among them. For a moment such a group is two with the same settings. Afterwards it is
    one again: schedules, checkpoints and runs on one process know nothing of it.

    Args:
        optimizer: any, or one made of several.

    Yields:
        Nothing.
    """
    kept = [(part, part.param_groups) for part in parts_of(optimizer)]
    for part, groups in kept:
        part.param_groups = [half for group in groups for half in _halves(group)]
    try:
        yield
    finally:
        for part, groups in kept:
            part.param_groups = groups


def _halves(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group as it is if its parameters are alike, otherwise one with each kind."""
    pieces = [p for p in group["params"] if isinstance(p, DTensor)]
    whole = [p for p in group["params"] if not isinstance(p, DTensor)]
    if not pieces or not whole:
        return [group]
    return [{**group, "params": pieces}, {**group, "params": whole}]
