"""Samples of different shapes side by side, against the same samples padded to the longest."""

from collections.abc import Callable

import torch
from timing import Clock
from torch import Tensor
from torch.nn import functional as F

from vedit.backbones.wan import WanDiT
from vedit.packing import SideBySide
from vedit.tokens import Context, Segment, TokenSequence

SHAPES = ((2, 16, 16), (4, 16, 24), (1, 12, 16), (6, 16, 32))
"""Latent (time, rows, columns) of four samples, such as an image beside videos."""


def packed(clock: Clock) -> None:
    """Samples of unlike shapes packed without padding, against padded to the longest."""
    torch.manual_seed(0)
    model = WanDiT(2, 4, 64, 1024, in_channels=4, text_dim=256)
    latents = [torch.randn(1, 4, *shape) for shape in SHAPES]
    words = [torch.randn(1, 16, 256) for _ in SHAPES]
    sigma = torch.rand(len(SHAPES))

    def sequences() -> list[TokenSequence]:
        return [
            TokenSequence.of_target(x, s, model.embed).with_context(Context(w))
            for x, s, w in zip(latents, sigma.split(1), words, strict=True)
        ]

    def together() -> list[Tensor]:
        return model(SideBySide(tuple(sequences())))

    def padded() -> list[Tensor]:
        return [model(padded_sequence(sequences()))]

    def training(forward: Callable[[], list[Tensor]]) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad()
            torch.stack([out.square().mean() for out in forward()]).sum().backward()

        return step

    counts = [one["target"].tokens.shape[1] for one in sequences()]
    a, b, ratio = clock.compare(training(together), training(padded), max(3, clock.pairs // 2))
    padding = 1 - sum(counts) / (len(counts) * max(counts))
    print(f"  samples of {', '.join(map(str, counts))} tokens; padding is {padding:.0%}")
    print(f"  step   packed {1e3 * a:8.1f} ms   padded {1e3 * b:8.1f} ms   ratio {ratio:.3f}")


def padded_sequence(sequences: list[TokenSequence]) -> TokenSequence:
    """One batch, each row padded to the longest; every row gets the positions of the longest."""
    targets = [one["target"] for one in sequences]
    counts = [target.tokens.shape[1] for target in targets]
    longest = targets[counts.index(max(counts))]
    rows = [F.pad(t.tokens, (0, 0, 0, max(counts) - t.tokens.shape[1])) for t in targets]
    segment = Segment(
        "target",
        torch.cat(rows),
        longest.positions,
        torch.cat([target.sigma for target in targets]),
        longest.grid,
        valid=torch.arange(max(counts)) < torch.tensor(counts)[:, None],
    )
    contexts = [one.context.tokens for one in sequences if one.context is not None]
    return TokenSequence((segment,), sequences[0].embed, Context(torch.cat(contexts)))
