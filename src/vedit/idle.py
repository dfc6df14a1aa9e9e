"""Frozen encoders that wait in the host's memory and visit the device to encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Idle: TypeAlias = Literal["keep", "offload"]
"""Where frozen encoders are between uses: on the device, or in the host's memory."""


class Visitor:
    """A frozen module whose parameters live on the host.

    They are copied to a device for a visit, and the copies dropped after it; nothing is copied
    back, since nothing changes. Where caches serve everything there is no visit, and the device
    never holds them. Buffers, and weights in fewer bits, stay where they are.

    Args:
        module: none of its parameters trains.
        device: where to go; asked at each visit.
    """

    def __init__(self, module: nn.Module, device: Callable[[], torch.device]) -> None:
        self.module, self.device = module, device
        self.visits = 0
        self._inside = 0
        self._home: list[tuple[nn.Parameter, Tensor]] = []

    def go_home(self) -> None:
        """Move the parameters to the host, into pinned memory where there is CUDA."""
        pins = torch.cuda.is_available()
        for parameter in self.module.parameters():
            host = parameter.data.to("cpu")
            host = host.pin_memory() if pins and not host.is_pinned() else host
            parameter.data = host
            self._home.append((parameter, host))

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Have the parameters on the device meanwhile."""
        self._inside += 1
        if self._inside == 1:
            self.visits += 1
            device = self.device()
            for parameter, host in self._home:
                parameter.data = host.to(device, non_blocking=True)
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                for parameter, host in self._home:
                    parameter.data = host

    def at(self, owner: Any, methods: Sequence[str]) -> Visitor:
        """Visit whenever one of an object's methods is called.

        Args:
            owner: whose methods need the module.
            methods: their names.

        Returns:
            Itself.
        """
        for name in methods:
            setattr(owner, name, _Visiting(getattr(owner, name), self))
        return self


class _Visiting:
    """A method that has its module on the device."""

    def __init__(self, method: Callable[..., Any], visitor: Visitor) -> None:
        self.method, self.visitor = method, visitor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.visitor.visiting():
            return self.method(*args, **kwargs)
