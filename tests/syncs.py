"""Where a computation asks a device for a value, which a GPU would make it wait for."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")


class Syncs(TorchDispatchMode):
    """Notes every operator that needs a value of a tensor to go on: its name, and who called it.

    Reading a tensor of the host by `.tolist()` or `.numpy()` is no operator, so what the host
    computes for itself does not count if it is read that way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if name in ASKING or masks:
            frames = [
                f for f in traceback.extract_stack() if "site-packages/torch" not in f.filename
            ]
            where = [f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames[-4:-1]]
            self.found.append(f"{name} at {' < '.join(reversed(where))}")
        return func(*args, **(kwargs or {}))
