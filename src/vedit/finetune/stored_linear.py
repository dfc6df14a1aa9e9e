"""Linear layers that do not train, with their weight in fewer bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vedit.finetune.storage import Storage, Stored

REPEATED = re.compile(r"(^|\.)\d+\.")
"""Names of layers in repeated blocks, which hold nearly all weights; the few others stay exact."""


class StoredLinear(nn.Linear):
    """x W^T + b with W stored, made dense in each pass and never kept for the backward pass.

    The stored tensors are neither parameters nor buffers: conversions of the module's type, DDP's
    broadcasts and FSDP's sharding leave them alone, and no checkpoint holds them.

    Args:
        linear: the layer to store.
        storage: how.
    """

    def __init__(self, linear: nn.Linear, storage: Storage) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.storage, self.dtype = storage, linear.weight.dtype
        with torch.no_grad():
            self.stored: Stored = storage.pack(linear.weight)
        self.bias = linear.bias
        self.requires_grad_(False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The dense weight (out, in), made anew, in the type it was loaded in."""
        return self.storage.dense(self.stored, self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as in the parent)
        """(..., in) to (..., out)."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))  # noqa: A001
        bias = None if self.bias is None else self.bias.to(input.dtype)
        if not input.requires_grad:
            return self.storage.product(input, self.stored, bias)
        out: Tensor = _Product.apply(input, bias, self.storage, *self.stored)
        return out

    def as_linear(self) -> nn.Linear:
        """An ordinary layer with the dense weight."""
        weight = self.weight
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # To another device, never to another type.
        self.stored = tuple(t.to(fn(t.new_empty(0)).device) for t in self.stored)
        return self


class _Product(torch.autograd.Function):
    """A product with a stored weight; the backward pass makes it dense again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, storage: Storage, *stored: Tensor
    ) -> Tensor:
        ctx.storage = storage
        ctx.save_for_backward(*stored)
        return storage.product(x, stored, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        stored = ctx.saved_tensors
        return ctx.storage.transposed(gradient, stored), None, None, *(None for _ in stored)


def store(module: nn.Module, storage: Storage) -> nn.Module:
    """Store the weights of the frozen linear layers in a module's repeated blocks.

    Args:
        module: already frozen, with or without adapters.
        storage: how.

    Returns:
        The module, changed in place.
    """
    for name, layer in list(module.named_modules()):
        plain = type(layer) is nn.Linear and not any(p.requires_grad for p in layer.parameters())
        if plain and REPEATED.search(name) and ".lora_" not in name:
            _replace(module, name, StoredLinear(layer, storage))
    return module


def restore_dense(module: nn.Module) -> nn.Module:
    """Undo `store`, but for what rounding took.

    Args:
        module: with stored layers or without.

    Returns:
        The module, changed in place.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, StoredLinear):
            _replace(module, name, layer.as_linear())
    return module


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, layer)
