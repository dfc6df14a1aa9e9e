"""What each way to recompute activations costs in time and saves in memory."""

from functools import partial
from typing import Any

import torch
from timing import Clock
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from vedit.backbones.recompute import (
    EveryKth,
    KeepAttention,
    OffloadInputs,
    Recompute,
    RecomputeBlocks,
    RecomputeFeedForward,
)
from vedit.backbones.wan import WanDiT
from vedit.tokens import TokenSequence

MODES: dict[str, Recompute] = {
    "RecomputeFeedForward": RecomputeFeedForward(),
    "KeepAttention": KeepAttention(),
    "EveryKth(2)": EveryKth(2),
    "RecomputeBlocks": RecomputeBlocks(),
    "OffloadInputs": OffloadInputs(),
}


class Living(TorchDispatchMode):
    """Remembers what operators make, and tells how much of it is still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def bytes(self) -> int:
        """Of all that is alive."""
        return sum(size for storage, size in self.made.values() if not storage.expired())


def recompute(clock: Clock) -> None:
    """A training step under each way to recompute, and what is kept after its forward pass."""
    latents = torch.randn(1, 4, 6, 20, 28)
    plain = model(None)
    everything = kept(plain, latents)
    print(f"  {'keep all':<22} time 1.000   kept {everything / 1e6:6.1f} MB   1.000")
    for name, mode in MODES.items():
        ours = model(mode)
        held = kept(ours, latents)
        run, reference = partial(step, ours, latents), partial(step, plain, latents)
        ratio = clock.compare(run, reference, max(3, clock.pairs // 5))[2]
        print(
            f"  {name:<22} time {ratio:.3f}   kept {held / 1e6:6.1f} MB   {held / everything:.3f}"
        )


def step(module: WanDiT, latents: Tensor) -> None:
    module.zero_grad()
    module(sequence(module, latents)).square().mean().backward()


def kept(module: WanDiT, latents: Tensor) -> int:
    """Bytes that the forward pass made and the backward pass waits for."""
    living = Living()
    with living:
        out = module(sequence(module, latents))
    return living.bytes() - out.nbytes


def model(mode: Recompute | None) -> WanDiT:
    torch.manual_seed(0)
    return WanDiT(4, 4, 64, 1024, in_channels=4, text_dim=256, recompute=mode)


def sequence(module: WanDiT, latents: Tensor) -> TokenSequence:
    return TokenSequence.of_target(latents, torch.full((1,), 0.5), module.embed)
