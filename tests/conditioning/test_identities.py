"""Tricks in latent space are operations on tokens: the two ways compute the same."""

from dataclasses import replace

import torch
from tests.wan import randomised, tiny
from torch import Tensor, nn

from vedit.backbones.wan import WanDiT
from vedit.batch import Conditions
from vedit.conditioning.add import ConcatChannels
from vedit.conditioning.append import PrependFrames
from vedit.model import EditModel
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

SHAPE = (2, 4, 3, 4, 6)


class WidenedWan(nn.Module):
    """The other way: a backbone whose input convolution takes 2C channels."""

    def __init__(self, backbone: WanDiT, extra: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        narrow = backbone.patch_embedding
        channels = 2 * backbone.spec.latent_channels
        wide = nn.Conv3d(channels, backbone.spec.width, (1, 2, 2), (1, 2, 2)).to(extra.dtype)
        with torch.no_grad():
            wide.weight.copy_(torch.cat([narrow.weight, extra], 1))
            wide.bias.copy_(narrow.bias)
        backbone.patch_embedding = wide

    def forward(self, x: Tensor, sigma: Tensor, source: Tensor, context: Context) -> Tensor:
        both = torch.cat([x, source], 1)
        sequence = TokenSequence.of_target(both, sigma, self.backbone.embed)
        return self.backbone(sequence.with_context(context))


def two_ways(zero_init: bool) -> tuple[EditModel, WidenedWan]:
    added = EditModel.build(tiny, {"source": lambda spec: ConcatChannels(spec)}).double()
    if not zero_init:
        randomised(added.injections)
    weight = added.injections["source"].embed.proj.weight.detach()
    return added, WidenedWan(tiny().double(), weight)


def step(seed: int) -> tuple[Tensor, Tensor, Tensor, Context]:
    draw = torch.Generator().manual_seed(seed)
    x, source = torch.randn(2, *SHAPE, generator=draw, dtype=torch.float64)
    sigma = torch.rand(2, generator=draw, dtype=torch.float64)
    return x, sigma, source, Context(torch.randn(2, 5, 64, generator=draw, dtype=torch.float64))


def test_adding_tokens_is_concatenating_channels():
    added, widened = two_ways(zero_init=False)
    x, sigma, source, context = step(0)
    sequence = added.sequence(x, sigma, Conditions({"source": source})).with_context(context)
    out = added.backbone(sequence)
    torch.testing.assert_close(out, widened(x, sigma, source, context), rtol=0, atol=1e-12)


def descend(optimizer: torch.optim.Optimizer, out: Tensor) -> None:
    optimizer.zero_grad()
    out.square().mean().backward()
    optimizer.step()


def test_and_stays_so_through_fifty_steps_of_adamw():
    added, widened = two_ways(zero_init=True)
    first, second = (torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (added, widened))
    for i in range(50):
        x, sigma, source, context = step(i)
        sequence = added.sequence(x, sigma, Conditions({"source": source})).with_context(context)
        descend(first, added.backbone(sequence))
        descend(second, widened(x, sigma, source, context))
    wide = widened.backbone.patch_embedding.weight
    separate = torch.cat(
        [added.backbone.patch_embedding.weight, added.injections["source"].embed.proj.weight], 1
    )
    assert float(separate[:, 4:].detach().abs().max()) > 0.01, "nothing was learnt"
    torch.testing.assert_close(separate, wide, rtol=0, atol=1e-10)
    others = dict(widened.backbone.named_parameters())
    for name, parameter in added.backbone.named_parameters():
        if name != "patch_embedding.weight":
            torch.testing.assert_close(parameter, others[name], rtol=0, atol=1e-10, msg=name)


def prepended_in_latent_space(model: WanDiT, x: Tensor, frame: Tensor, sigma: Tensor) -> Tensor:
    """The other way: frame and video are one video of latents; the first frame is clean.

    Times run from 0 here. The frame is cut off the output.
    """
    tokens, (t, rows, columns) = model.embed(torch.cat([frame, x], dim=2))
    n = rows * columns
    positions = grid_positions((t, rows, columns))
    clean = Segment("frame", tokens[:, :n], positions[:n], torch.zeros_like(sigma))
    video = Segment("target", tokens[:, n:], positions[n:], sigma, (t - 1, rows, columns))
    return model(TokenSequence((clean, video), model.embed))


def test_a_segment_before_time_zero_is_a_prepended_frame():
    model = EditModel.build(tiny, {"reference": PrependFrames}).double()
    x, sigma, frame, _ = step(0)
    frame = frame[:, :, :1]
    out = model(x, sigma, Conditions({"reference": frame}))
    expected = prepended_in_latent_space(model.backbone, x, frame, sigma)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(out, model(x, sigma, Conditions()))


def test_a_frame_prepended_to_both_halves_of_the_channels():
    """The source concatenated by channels, the reference prepended to both branches."""
    slots = {"source": lambda spec: ConcatChannels(spec, widen=True), "reference": PrependFrames}
    added = EditModel.build(tiny, slots).double()
    randomised(added.injections)
    weight = added.injections["source"].embed.proj.weight.detach()
    wide = WidenedWan(tiny().double(), weight).backbone
    x, sigma, source, _ = step(0)
    frame = torch.randn_like(x[:, :, :1])
    out = added(x, sigma, Conditions({"source": source, "reference": frame}))
    expected = prepended_in_latent_space(
        wide, torch.cat([x, source], 1), torch.cat([frame, frame], 1), sigma
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)

    slots["source"] = lambda spec: ConcatChannels(spec)
    narrow = EditModel.build(tiny, slots).double()
    randomised(narrow.injections)
    other = narrow(x, sigma, Conditions({"source": source, "reference": frame}))
    assert not torch.allclose(other, expected), "the option did nothing"


def test_the_order_of_slots_matters_only_where_one_reads_the_other():
    x, sigma, source, _ = step(0)
    model = EditModel.build(tiny, {"source": ConcatChannels, "reference": PrependFrames}).double()
    randomised(model.injections)
    given = Conditions({"source": source, "reference": source[:, :, :1]})
    sequence = model.sequence(x, sigma, given)
    swapped = replace(sequence, segments=sequence.segments[::-1])
    torch.testing.assert_close(model.backbone(swapped), model(x, sigma, given), rtol=0, atol=1e-12)
