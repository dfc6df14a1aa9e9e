"""WanDiT computes what diffusers' WanTransformer3DModel computes, forward and backward."""

from dataclasses import replace

import pytest
import torch
from tests.wan import PROJECTION, pair, sequence
from torch import Tensor

from vedit.backbones.recompute import RecomputeBlocks, spread
from vedit.backbones.wan import WanDiT
from vedit.tokens import Context, Segment, TokenSequence, grid_positions

TOLERANCE = 1e-5
GRID = (3, 4, 3)


def inputs(channels: int = 4, batch: int = 2, text: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, channels, 3, 8, 6)
    return x, torch.rand(batch), torch.randn(batch, 5, text)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.detach() - b.detach()).abs().max())


def assert_same_gradients(ours: WanDiT, theirs: torch.nn.Module, loss: Tensor, loss_: Tensor):
    loss.backward()
    loss_.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = expected[name].grad
        assert parameter.grad is not None, name
        assert gradient is not None
        scale = max(1.0, float(gradient.abs().max()))
        assert difference(parameter.grad, gradient) / scale < TOLERANCE, name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_head_dim": 128, "num_attention_heads": 1},
        {"attention_head_dim": 20, "num_attention_heads": 3},
        {"cross_attn_norm": False, "eps": 1e-5},
        {"in_channels": 6, "out_channels": 3},
    ],
    ids=["head32", "head128", "head20", "plain-cross", "out3"],
)
def test_forward_and_gradients(changes):
    ours, theirs = pair(**changes)
    x, sigma, text = inputs(channels=ours.spec.latent_channels)
    x.requires_grad_()
    x_ = x.detach().clone().requires_grad_()
    context = theirs.condition_embedder.text_embedder(text)
    out = ours(sequence(ours, x, sigma, context.detach()))
    out_ = theirs(x_, 1000 * sigma, text).sample
    assert difference(out, out_) < TOLERANCE
    weight = torch.randn_like(out) / out.numel() ** 0.5
    assert_same_gradients(ours, theirs, (out * weight).sum(), (out_ * weight).sum())
    assert difference(x.grad, x_.grad) < TOLERANCE


def test_names_are_those_of_diffusers_less_the_text_projection():
    ours, theirs = pair()
    kept = {name for name in theirs.state_dict() if not name.startswith(PROJECTION)}
    assert set(ours.state_dict()) == kept


def test_per_token_timesteps_are_a_segment_of_its_own():
    """What diffusers does with a timestep per token (Wan2.2-TI2V: a clean first frame)."""
    ours, theirs = pair()
    x, sigma, text = inputs()
    rows_and_columns = GRID[1] * GRID[2]
    times = 1000 * sigma[:, None].repeat(1, 3 * rows_and_columns)
    times[:, :rows_and_columns] = 0
    out_ = theirs(x, times, text).sample

    context = Context(theirs.condition_embedder.text_embedder(text).detach())
    first, grid = ours.embed(x[:, :, :1])
    whole = TokenSequence.of_target(x[:, :, 1:], sigma, ours.embed).with_context(context)
    later = replace(whole["target"], positions=grid_positions((2, *GRID[1:]), time_offset=1))
    clean = Segment("first", first, grid_positions(grid), torch.zeros_like(sigma), grid)
    out = ours(replace(whole, segments=(later, clean)))

    expected = out_[:, :, 1:]
    assert difference(out, expected) < TOLERANCE
    weight = torch.randn_like(out) / out.numel() ** 0.5
    assert_same_gradients(ours, theirs, (out * weight).sum(), (expected * weight).sum())


def test_bfloat16_agrees_to_its_precision():
    ours, theirs = pair()
    ours, theirs = ours.bfloat16(), theirs.bfloat16()
    x, sigma, text = inputs()
    context = theirs.condition_embedder.text_embedder(text.bfloat16())
    out = ours(sequence(ours, x.bfloat16(), sigma, context))
    out_ = theirs(x.bfloat16(), 1000 * sigma, text.bfloat16()).sample
    assert out.dtype == torch.bfloat16
    error = (out - out_).float().norm() / out_.float().norm()
    assert float(error.detach()) < 0.02


def test_recomputing_blocks_changes_nothing():
    ours, _ = pair()
    other, _ = pair()
    other.recompute = spread(RecomputeBlocks(), other.blocks)
    x, sigma, _ = inputs()
    context = torch.randn(2, 5, 64)
    for model in (ours, other):
        model(sequence(model, x, sigma, context)).square().sum().backward()
    for (name, a), (_, b) in zip(ours.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
