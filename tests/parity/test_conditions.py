"""Conditions enter as in diffusers: channels concatenated, frames appended in latent space."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from tests.wan import TINY, pair, randomised
from torch import Tensor

from vedit.backbones.wan import WanDiT
from vedit.batch import Conditions
from vedit.conditioning.add import ConcatChannels
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.embed import SharedPatchEmbed
from vedit.model import EditModel
from vedit.tokens import Context

TOLERANCE = 1e-5


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def test_a_checkpoint_over_twice_the_channels_is_split(tmp_path):
    """Lucy Edit's layout: one convolution over noisy latents and source, side by side."""
    theirs = randomised(WanTransformer3DModel(**{**TINY, "in_channels": 8, "out_channels": 4}))
    theirs.save_pretrained(tmp_path)
    folder = str(tmp_path)

    def source(spec):
        return ConcatChannels(spec, weights=folder, weights_slice="second")

    ours = EditModel.build(
        lambda: WanDiT(**TINY, weights=folder, input_half="first"), {"source": source}
    )
    x, latents = torch.randn(2, 2, 4, 2, 4, 6)
    sigma, text = torch.rand(2), torch.randn(2, 5, TINY["text_dim"])
    context = Context(theirs.condition_embedder.text_embedder(text).detach())
    sequence = ours.sequence(x, sigma, Conditions({"source": latents})).with_context(context)
    out = ours.backbone(sequence)
    out_ = theirs(torch.cat([x, latents], 1), 1000 * sigma, text).sample
    assert difference(out, out_) < TOLERANCE

    out.square().sum().backward()
    out_.square().sum().backward()
    halves = ours.backbone.patch_embedding, ours.injections["source"].embed.proj
    gradient = torch.cat([half.weight.grad for half in halves], 1)
    expected = theirs.patch_embedding.weight.grad
    assert difference(gradient, expected) < TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("noise", ["shared", "clean"])
@pytest.mark.parametrize("time", ["after", "before"])
@pytest.mark.parametrize("count", [1, 3])
def test_references_are_frames_behind_or_in_front(time, noise, count):
    """Several references, each a latent frame, with the noise level of the target or none.

    In diffusers: one video of latents, a timestep for every token, the frames cut off the output.
    """
    backbone, theirs = pair()
    ours = EditModel.build(
        lambda: backbone,
        {"reference": lambda s: AppendTokens(s, SharedPatchEmbed, time=time, noise=noise)},
    )
    x, references = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 4, count, 4, 6)
    sigma, text = torch.rand(2), torch.randn(2, 5, TINY["text_dim"])
    context = Context(theirs.condition_embedder.text_embedder(text).detach())
    sequence = ours.sequence(x, sigma, Conditions({"reference": references}))
    out = ours.backbone(sequence.with_context(context))

    frame = 6  # tokens
    levels = [sigma[:, None].repeat(1, 2 * frame), sigma[:, None].repeat(1, count * frame)]
    if noise == "clean":
        levels[1].zero_()
    parts, kept = [x, references], slice(0, 2)
    if time == "before":
        parts, levels, kept = parts[::-1], levels[::-1], slice(count, None)
    out_ = theirs(torch.cat(parts, 2), 1000 * torch.cat(levels, 1), text).sample
    assert difference(out, out_[:, :, kept]) < TOLERANCE
