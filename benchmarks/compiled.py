"""A step with compiled blocks against one without."""

import copy
import time

import torch
from timing import Clock
from torch import nn

from vedit.backbones.wan import WanDiT
from vedit.compilation import CompileBlocks
from vedit.tokens import Context, TokenSequence


def compiled(clock: Clock) -> None:
    """A training step with compiled blocks against plain ones; on a CPU little is gained."""
    torch.manual_seed(0)
    plain = WanDiT(4, 4, 64, 1024, in_channels=4, text_dim=256)
    fast = copy.deepcopy(plain)
    CompileBlocks().apply(fast)
    latents, words = torch.randn(1, 4, 4, 24, 32), torch.randn(1, 32, 256)

    def step(module: nn.Module) -> None:
        start = TokenSequence.of_target(latents, torch.full((1,), 0.5), module.embed)
        module.zero_grad()
        module(start.with_context(Context(words))).square().mean().backward()

    began = time.perf_counter()
    step(fast)
    print(f"  the first step, which compiles: {time.perf_counter() - began:.0f} s")
    a, b, ratio = clock.compare(lambda: step(fast), lambda: step(plain), max(3, clock.pairs // 2))
    print(f"  step   compiled {1e3 * a:8.1f} ms   plain {1e3 * b:8.1f} ms   ratio {ratio:.3f}")
