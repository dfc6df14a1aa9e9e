"""What a step costs by the number of tokens, and how modulation is applied."""

import math

import torch
from timing import Clock
from torch import Tensor
from torch.nn import functional as F

from vedit.backbones.modulation import add_gated, modulated_norm
from vedit.backbones.wan import TimeEmbedding, WanDiT
from vedit.tokens import TokenSequence

EPS = 1e-6


def tokens(clock: Clock) -> None:
    """A training step by the number of tokens: one block, width 128, float32."""
    torch.manual_seed(0)
    model = WanDiT(1, 2, 64, 512, in_channels=4, text_dim=128)
    counts, times = [], []
    for power in range(8, 15):
        count = 2**power
        latents = torch.randn(1, 4, count // 64, 16, 16)

        def step(latents: Tensor = latents) -> None:
            sequence = TokenSequence.of_target(latents, torch.rand(1), model.embed)
            model(sequence).square().mean().backward()

        if count < 4096:
            step()
        spent = min(clock.seconds(step) for _ in range(max(1, min(5, 4096 // count))))
        counts.append(count)
        times.append(spent)
        exponent = "" if len(times) == 1 else f"   exponent {slope(counts[-2:], times[-2:]):.2f}"
        print(f"  {count:>6} tokens {1e3 * spent:10.1f} ms{exponent}")
    print(f"  fitted over all sizes: time grows as tokens^{slope(counts, times):.2f}")


def slope(x: list[int], y: list[float]) -> float:
    """Least-squares exponent of y as a power of x."""
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    over = sum((a - mean_x) * (b - mean_y) for a, b in logs)
    return over / sum((a - mean_x) ** 2 for a, _ in logs)


def modulation(clock: Clock) -> None:
    """Modulation by one row per segment against one per token, forward and backward."""
    torch.manual_seed(0)
    width, lengths = 256, (1024, 1024)
    count = sum(lengths)
    embedding = TimeEmbedding(64, width)
    x, update = torch.randn(2, 1, count, width).unbind()
    x.requires_grad_()
    levels = torch.tensor([[0.7, 0.0]])
    each = torch.cat([levels[:, g, None].expand(-1, n) for g, n in enumerate(lengths)], 1)

    def by_segment() -> None:
        shift, scale, gate, *_ = embedding(levels)[1].unbind(2)
        h = modulated_norm(x, shift, scale, lengths, EPS)
        add_gated(h, update, gate, lengths).sum().backward()

    def by_token() -> None:
        shift, scale, gate, *_ = embedding(each)[1].unbind(2)
        h = F.layer_norm(x, (width,), eps=EPS) * (1 + scale) + shift
        (h + update * gate).sum().backward()

    a, b, ratio = clock.compare(by_segment, by_token)
    table = 6 * 4 * width
    print(f"  {count} tokens in {len(lengths)} segments, width {width}")
    print(f"  time   by segment {1e3 * a:8.1f} ms   by token {1e3 * b:8.1f} ms   ratio {ratio:.3f}")
    print(f"  table  by segment {table * 2 / 1e3:8.1f} kB   by token {table * count / 1e3:8.1f} kB")
