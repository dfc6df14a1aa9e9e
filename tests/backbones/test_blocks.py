"""Blocks other than Wan's own (whose parity is in tests/parity)."""

import torch
from tests.wan import randomised, tiny

from vedit.backbones.blocks import UnifiedBlock
from vedit.batch import Conditions
from vedit.conditioning.append import AppendContext, AppendTokens
from vedit.model import EditModel
from vedit.tokens import Context, TokenSequence

SHAPE = (2, 4, 2, 4, 6)


def unified(**changes):
    return tiny(block=UnifiedBlock, **changes)


def test_a_unified_block_is_wans_without_cross_attention():
    wan, ours = tiny().double(), unified().double()
    ours.load_state_dict(
        {k: v for k, v in wan.state_dict().items() if ".attn2." not in k and ".norm2." not in k}
    )
    assert not ours.spec.cross_attention
    x, sigma = torch.randn(SHAPE).double(), torch.rand(2).double()
    outs = [m(TokenSequence.of_target(x, sigma, m.embed)) for m in (wan, ours)]
    assert torch.equal(*outs)


def model():
    slots = {"instruction": AppendContext, "source": AppendTokens}
    built = EditModel.build(unified, slots).double()
    randomised(built.injections)
    return built


def given(tokens, valid, latents):
    return Conditions({"source": latents}, Context(tokens, valid))


def test_padding_of_the_instruction_changes_nothing():
    """A sample in a padded batch is edited as it is alone."""
    edit = model()
    x, source = torch.randn(2, *SHAPE, dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.8], dtype=torch.float64)
    tokens = torch.randn(2, 5, 64, dtype=torch.float64)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out = edit(x, sigma, given(tokens, valid, source))
    for row, length in enumerate((5, 3)):
        one = slice(row, row + 1)
        alone = edit(x[one], sigma[one], given(tokens[one, :length], None, source[one]))
        torch.testing.assert_close(out[one], alone, rtol=0, atol=1e-12)
    unmasked = edit(x, sigma, given(tokens, None, source))
    assert not torch.allclose(out[1], unmasked[1])


def test_an_instruction_of_padding_alone_is_as_none_at_all():
    edit = model()
    x, source = torch.randn(2, *SHAPE, dtype=torch.float64)
    sigma = torch.rand(2, dtype=torch.float64)
    silent = torch.zeros(2, 4, dtype=torch.bool)
    tokens = torch.randn(2, 4, 64, dtype=torch.float64, requires_grad=True)
    out = edit(x, sigma, given(tokens, silent, source))
    without = edit(x, sigma, Conditions({"source": source}))
    torch.testing.assert_close(out, without, rtol=0, atol=1e-12)
    out.square().sum().backward()
    assert not tokens.grad.any()
