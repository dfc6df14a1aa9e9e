"""Tensors of the backward pass that wait in the memory of the host."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Host:
    """Pinned memory of the host as a stack of tensors: last in, first out.

    Copies run on a stream of their own, so that the device computes meanwhile. Fetching one starts
    the copy of the one that was sent before it, which the backward pass asks for next.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._last: weakref.ref[_Away] | None = None

    @contextmanager
    def holding(self, tensor: Tensor) -> Iterator[None]:
        """Keep one tensor here if autograd saves it meanwhile; other tensors stay where they are.

        Args:
            tensor: on CUDA; one on a CPU is left alone.
        """

        def pack(saved: Tensor) -> Tensor | _Away:
            same = saved.numel() == tensor.numel() and saved.data_ptr() == tensor.data_ptr()
            return self._send(saved) if same and saved.is_cuda else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, _fetch):
            yield

    def _send(self, tensor: Tensor) -> _Away:
        device = tensor.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        before = None if self._last is None else self._last()
        away = _Away(tensor, self._streams[device], before)
        self._last = weakref.ref(away)
        return away

    def __deepcopy__(self, memo: dict[int, Any]) -> Host:
        """A new one: what waits here belongs to a pass in progress."""
        return Host()


class _Away:
    """One tensor on its way to the host and back."""

    def __init__(self, tensor: Tensor, stream: torch.cuda.Stream, before: _Away | None) -> None:
        self.device, self.stream, self.before = tensor.device, stream, before
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self.back: Tensor | None = None
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self.host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)  # its memory is reused after the copy, not before

    def start(self) -> Tensor:
        """Begin the copy back, unless it has begun."""
        if self.back is None:
            with torch.cuda.stream(self.stream):
                self.back = self.host.to(self.device, non_blocking=True)
        return self.back

    def fetch(self) -> Tensor:
        """The tensor, for use on the current stream."""
        back, self.back = self.start(), None
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        back.record_stream(current)
        if self.before is not None:
            self.before.start()
            self.before = None
        return back


def _fetch(packed: Tensor | _Away) -> Tensor:
    return packed.fetch() if isinstance(packed, _Away) else packed
