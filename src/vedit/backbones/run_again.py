"""Modules that keep their input alone and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_again(module: nn.Module, context: Callable[[], Any] | None = None) -> None:
    """Have a module drop what it would save, and run again when the backward pass asks for it.

    The module's own `forward` is replaced, rather than its caller changed, so that it happens
    inside what `module.compile()` compiles and inside the hooks by which FSDP gathers weights.

    Args:
        module: called with positional arguments.
        context: makes the contexts of the first and of the second run, as `checkpoint` wants them;
            None keeps nothing of the first.
    """
    module.forward = _Recomputing(module.forward, context)


class _Recomputing:
    """A `forward` that is run again; an object, so that copies of a module get their own."""

    def __init__(self, forward: Callable[..., Any], context: Callable[[], Any] | None) -> None:
        self.forward, self.context = forward, context

    def __call__(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args)
        if self.context is None:
            return checkpoint(self.forward, *args, use_reentrant=False)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=self.context)
