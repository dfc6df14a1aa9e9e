"""A sample among others gets what it would get alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wan import randomised, tiny

from vedit.backbones.blocks import CrossBlock, DualCrossBlock, UnifiedBlock
from vedit.batch import Conditions
from vedit.compilation import CompileBlocks
from vedit.conditioning.append import AppendContext, AppendTokens
from vedit.conditioning.cross import CrossAttend
from vedit.model import EditModel
from vedit.packing import SideBySide, joined_contexts
from vedit.tokens import Context, TokenSequence

SHAPES = [(2, 4, 6), (1, 8, 4), (3, 4, 4)]
BLOCKS = {"cross": CrossBlock, "unified": UnifiedBlock, "dual": DualCrossBlock}


def model(block=CrossBlock, sees=None, **changes):
    cross = block is not UnifiedBlock
    slots = {
        "instruction": CrossAttend if cross else AppendContext,
        "source": lambda spec: AppendTokens(spec, sees=sees),
    }
    built = EditModel.build(lambda: tiny(block=block, **changes), slots).double()
    randomised(built.injections)
    return built


def samples(shapes, streams=False, padded=False):
    """Noisy latents, levels and conditions; every second sample lacks the source."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    noisy, given = [], []
    for i, shape in enumerate(shapes):
        noisy.append(draw(4, *shape))
        valid = torch.tensor([[True] * (2 + i) + [False] * 2]) if padded else None
        more = {"image": Context(draw(3 + i, 64))} if streams else {}
        latents = {} if i % 2 else {"source": draw(4, *shape)}
        given.append(Conditions(latents, Context(draw(4 + i, 64), valid, more)))
    return noisy, torch.linspace(0.2, 0.9, len(shapes), dtype=torch.float64), given


def alone(model, noisy, sigma, given):
    return [model(x, s, c) for x, s, c in zip(noisy, sigma.split(1), given, strict=True)]


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("block", BLOCKS)
def test_velocities_and_gradients_are_those_of_each_sample_alone(block, padded):
    edit = model(BLOCKS[block])
    batch = samples(SHAPES, block == "dual", padded)
    found = []
    for run in (lambda *a: edit(*a), lambda *a: alone(edit, *a)):
        edit.zero_grad()
        outs = run(*batch)
        sum(out.square().sum() for out in outs).backward()
        found.append((outs, gradients(edit)))
    (together, mine), (one_by_one, expected) = found
    assert [out.shape for out in together] == [x.shape for x in batch[0]]
    for a, b in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert mine.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-12, atol=1e-11, msg=name)


sizes = st.tuples(st.integers(1, 3), st.sampled_from([2, 4, 6]), st.sampled_from([2, 4]))


@settings(deadline=None, max_examples=15)
@given(st.lists(sizes, min_size=1, max_size=4), st.sampled_from([None, ["source"], ["target"]]))
def test_any_shapes_and_any_visibility(shapes, sees):
    edit = model(sees=sees, num_layers=1)
    batch = samples(shapes)
    with torch.no_grad():
        for a, b in zip(edit(*batch), alone(edit, *batch), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_another_sample_changes_nothing():
    edit = model()
    noisy, sigma, given = samples(SHAPES)
    with torch.no_grad():
        before = edit(noisy, sigma, given)
        noisy[1] = noisy[1] + 1
        after = edit(noisy, sigma, given)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1], after[1])


def test_compiled_blocks_take_them_too():
    edit = model(num_layers=2)
    twin = copy.deepcopy(edit)
    torch._dynamo.reset()
    CompileBlocks(backend="aot_eager").apply(twin.backbone)
    batch = samples(SHAPES[:2])
    for a, b in zip(twin(*batch), edit(*batch), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch._dynamo.reset()


def test_what_cannot_be_side_by_side_is_refused():
    backbone = tiny()
    two = TokenSequence.of_target(torch.randn(2, 4, 1, 4, 4), torch.rand(2), backbone.embed)
    with pytest.raises(ValueError, match="holds one sample, one has 2"):
        SideBySide((two,))
    one = TokenSequence.of_target(torch.randn(1, 4, 1, 4, 4), torch.rand(1), backbone.embed)
    with pytest.raises(ValueError, match="some have a context"):
        SideBySide((one, one.with_context(Context(torch.randn(1, 2, 64)))))
    plain = Context(torch.randn(1, 2, 64))
    with pytest.raises(ValueError, match="different streams"):
        joined_contexts([plain, Context(torch.randn(1, 2, 64), None, {"image": plain})])
