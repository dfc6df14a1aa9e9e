"""WanDiT against diffusers' WanTransformer3DModel, and where a training step spends its time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from timing import Clock
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vedit.backbones.wan import WanDiT
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

PROJECTION = "condition_embedder.text_embedder."


@dataclass(frozen=True)
class Shape:
    """A backbone, and how many tokens it reads.

    `segments` of `grid` patches each: with one, all tokens share a noise level per sample; with
    two, the second is clean, which diffusers can only express as a timestep per token.
    """

    name: str
    heads: int
    head_width: int
    layers: int
    ffn: int
    grid: tuple[int, int, int]
    segments: int
    batch: int
    context: int

    def __str__(self) -> str:
        tokens = "+".join([str(self.grid[0] * self.grid[1] * self.grid[2])] * self.segments)
        return (
            f"{self.name}: D={self.heads * self.head_width}, {self.layers} layers, "
            f"batch {self.batch}, {tokens} tokens, context {self.context}"
        )


SHAPES = (
    Shape("nano, one level", 8, 32, 6, 1024, (6, 4, 7), 1, 8, 64),
    Shape("nano, target and source", 8, 32, 6, 1024, (3, 4, 7), 2, 8, 64),
    Shape("wider, one level", 6, 128, 2, 3072, (4, 12, 12), 1, 1, 128),
    Shape("wider, target and source", 6, 128, 2, 3072, (2, 12, 12), 2, 1, 128),
)


def models(shape: Shape) -> tuple[WanDiT, WanTransformer3DModel]:
    """Ours and diffusers' with the same random weights."""
    torch.manual_seed(0)
    sizes = {
        "num_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "attention_head_dim": shape.head_width,
        "ffn_dim": shape.ffn,
        "in_channels": 32,
        "text_dim": shape.heads * shape.head_width,
    }
    theirs = WanTransformer3DModel(**sizes, out_channels=32)
    ours = WanDiT(**sizes)
    state = theirs.state_dict()
    ours.load_state_dict({k: v for k, v in state.items() if not k.startswith(PROJECTION)})
    return ours, theirs


def inputs(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    t, rows, columns = shape.grid
    torch.manual_seed(1)
    latents = torch.randn(shape.batch, 32, t * shape.segments, 2 * rows, 2 * columns)
    context = torch.randn(shape.batch, shape.context, shape.heads * shape.head_width)
    return latents, torch.rand(shape.batch), context


def our_forward(model: WanDiT, shape: Shape) -> Callable[[], Tensor]:
    latents, sigma, context = inputs(shape)
    target, *rest = latents.chunk(shape.segments, dim=2)

    def forward() -> Tensor:
        sequence = TokenSequence.of_target(target, sigma, model.embed)
        sequence = sequence.with_context(Context(context))
        for source in rest:
            tokens, grid = model.embed(source)
            positions = grid_positions(grid, time_offset=shape.grid[0])
            clean = torch.zeros_like(sigma)
            sequence = sequence.append(Segment("source", tokens, positions, clean, grid))
        return model(sequence)

    return forward


def their_forward(model: WanTransformer3DModel, shape: Shape) -> Callable[[], Tensor]:
    latents, sigma, context = inputs(shape)
    # The text projection is no part of ours: leave it out of theirs.
    model.condition_embedder.text_embedder = torch.nn.Identity()
    tokens = shape.grid[0] * shape.grid[1] * shape.grid[2]
    times = 1000 * sigma
    if shape.segments > 1:
        clean = torch.zeros(shape.batch, tokens)
        times = torch.cat([times[:, None].expand(-1, tokens), clean], dim=1)
    return lambda: model(latents, times, context).sample[:, :, : shape.grid[0]]


def training(model: torch.nn.Module, forward: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        forward().square().mean().backward()

    return step


def backbone(clock: Clock) -> None:
    """WanDiT against diffusers' WanTransformer3DModel with the same weights."""
    for shape in SHAPES:
        ours, theirs = models(shape)
        forward, forward_ = our_forward(ours, shape), their_forward(theirs, shape)
        with torch.no_grad():
            difference = float((forward() - forward_()).abs().max())
            alone = clock.compare(forward, forward_)
        both = clock.compare(training(ours, forward), training(theirs, forward_))
        print(f"{shape}  (outputs differ by {difference:.0e})")
        for name, (a, b, ratio) in (("forward", alone), ("forward + backward", both)):
            print(f"  {name:<20} vedit {1e3 * a:8.1f} ms   diffusers {1e3 * b:8.1f} ms   ", end="")
            print(f"ratio {ratio:.3f}")


KINDS = {
    "matrix products": ("addmm", "::mm", "bmm", "convolution"),
    "attention": ("attention",),
    "normalisation": ("norm", "rsqrt"),
    "activations": ("gelu", "silu"),
    "copies": ("copy_", "cat", "clone", "stack", "fill_", "zero_", "empty"),
    "elementwise": ("mul", "add", "sub", "div", "neg", "pow", "sum", "mean"),
    "optimiser": ("adam", "foreach", "lerp", "addcdiv"),
}


def kind_of(operator: str) -> str:
    for kind in ("optimiser", *KINDS):
        if any(part in operator.lower() for part in KINDS[kind]):
            return kind
    return "everything else"


def breakdown(clock: Clock) -> None:
    """Where the time of a training step goes: target and source, AdamW."""
    shape = SHAPES[1]
    model, _ = models(shape)
    step = training(model, our_forward(model, shape))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step(), optimizer.step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(clock.pairs):
            step()
            optimizer.step()
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = kind_of(event.key)
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total / 1e3 / clock.pairs
    total = sum(spent.values())
    print(f"{shape}: {total:.1f} ms a step, profiler included")
    for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {kind:<20} {milliseconds:8.1f} ms  {milliseconds / total:6.1%}")
