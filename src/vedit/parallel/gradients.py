"""Gradients that lie in pieces on several ranks: their mean, their norm, their clipping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

BUCKET = 1 << 26
"""Numbers that are averaged at once: 256 MiB in float32."""


@torch.no_grad()
def average_gradients(
    parameters: Iterable[Tensor],
    dtype: torch.dtype | None = None,
    group: distributed.ProcessGroup | None = None,
) -> None:
    """Replace the gradients of parameters that every rank holds whole by their mean over ranks.

    Every rank must have gradients of the same parameters, as it has where all train on batches of
    one kind. Gradients that lie in pieces are averaged as they are made and left alone.

    Args:
        parameters: of any shapes; those without a gradient are passed over.
        dtype: number format to sum in; None is that of the gradients.
        group: of ranks; None is all of them.
    """
    world = distributed.get_world_size(group)
    whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    for bucket in _buckets(whole):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        summed = flat if dtype is None else flat.to(dtype)
        summed.div_(world)
        distributed.all_reduce(summed, group=group)
        pieces = summed.to(flat.dtype).split([gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients of one number format, in order, the same on every rank."""
    for dtype in sorted({g.dtype for g in gradients}, key=str):
        bucket: list[Tensor] = []
        size = 0
        for gradient in gradients:
            if gradient.dtype == dtype:
                bucket.append(gradient)
                size += gradient.numel()
            if size >= BUCKET:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, the same on every rank and as on a single one.

    Args:
        parameters: whole or in pieces; those without a gradient are passed over. All ranks of a
            piece's mesh call this together.

    Returns:
        A scalar in at least float32, zero without gradients.
    """
    by_mesh: dict[Any, list[Tensor]] = {}
    for gradient in _gradients(parameters):
        by_mesh.setdefault(_where(gradient), []).append(gradient)
    squares = [_square(gradients, where) for where, gradients in by_mesh.items()]
    if not squares:
        return torch.zeros(())
    return torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt()


@torch.no_grad()
def clip_by_norm(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """Scale all gradients so that their norm is at most `largest`.

    Args:
        parameters: as `gradient_norm` takes them.
        largest: norm, > 0.

    Returns:
        The norm before.
    """
    kept = list(parameters)
    norm = gradient_norm(kept)
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in _gradients(kept):
        piece = _local(gradient)
        piece.mul_(factor.to(piece))
    return norm


@torch.no_grad()
def clip_by_value(parameters: Iterable[Tensor], largest: float) -> None:
    """Bring every number of every gradient into [-largest, largest].

    Args:
        parameters: whole or in pieces.
        largest: > 0.
    """
    for gradient in _gradients(parameters):
        _local(gradient).clamp_(-largest, largest)


def in_pieces(parameters: Iterable[Tensor]) -> bool:
    """Whether any of them has a gradient that lies on several ranks."""
    return any(isinstance(gradient, DTensor) for gradient in _gradients(parameters))


def _gradients(parameters: Iterable[Tensor]) -> Iterator[Tensor]:
    for parameter in parameters:
        if parameter.grad is not None:
            yield parameter.grad


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _where(gradient: Tensor) -> Any:
    return (gradient.device_mesh, gradient.placements) if isinstance(gradient, DTensor) else None


def _square(gradients: Sequence[Tensor], where: Any) -> Tensor:
    """The sum of all squares, over the ranks that hold pieces where there are any."""
    norms = torch._foreach_norm([_local(gradient) for gradient in gradients], 2)
    squares = torch.stack(list(norms))
    total = squares.to(torch.promote_types(squares.dtype, torch.float32)).square().sum()
    if where is not None:
        mesh, placements = where
        for dimension, placement in enumerate(placements):
            if placement.is_shard():
                distributed.all_reduce(total, group=mesh.get_group(dimension))
    return total
