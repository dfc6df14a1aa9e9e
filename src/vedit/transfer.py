"""Copies between host and device that neither of them waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, on its way there while the host goes on.

    Args:
        tensor: anywhere; one that is there already is returned as it is.
        device: where it is wanted.

    Returns:
        The tensor there. On CUDA the copy is queued like everything else, from pinned memory.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Late:
    """A tensor of a device on its way to the host, to be read when it is there.

    Args:
        tensor: on any device; later changes to it do not matter.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor.detach(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.detach().clone()

    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self._event is None or self._event.query()

    def read(self) -> Tensor:
        """The tensor on the host; waits until the device has come to where it was copied."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
