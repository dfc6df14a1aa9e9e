"""Every strategy composes, trains and says clearly what does not fit."""

from dataclasses import replace

import pytest
import torch
from tests.wan import randomised, tiny

from vedit.backbones.base import BackboneSpec
from vedit.backbones.blocks import DualCrossBlock, UnifiedBlock
from vedit.batch import Conditions
from vedit.conditioning.add import (
    AddToTokens,
    ConcatChannels,
    LearnedScaledAdd,
    PooledMask,
    SigmaScaledAdd,
)
from vedit.conditioning.append import AppendContext, AppendTokens, PrependFrames
from vedit.conditioning.cross import CrossAttend
from vedit.conditioning.embed import PatchEmbed, PooledPixels, SharedPatchEmbed
from vedit.conditioning.pooling import pool_to_grid
from vedit.context.base import check_streams
from vedit.errors import ConfigError
from vedit.model import EditModel
from vedit.tokens import Context

SHAPE = (2, 4, 2, 4, 6)
LATENTS = {
    "source": torch.randn(SHAPE),
    "mask": torch.randn(SHAPE),
    "reference": torch.randn(2, 4, 3, 4, 6),
}

PIXELS = torch.rand(2, 3, 5, 32, 48) * 2 - 1

STRATEGIES = {
    "add": {"source": AddToTokens},
    "sigma-add": {"source": SigmaScaledAdd},
    "learned-add": {"source": LearnedScaledAdd},
    "shared-add": {"source": lambda spec: AddToTokens(spec, embed=SharedPatchEmbed)},
    "channels": {"source": ConcatChannels},
    "channels-and-frame": {
        "source": lambda spec: ConcatChannels(spec, widen=True),
        "reference": PrependFrames,
    },
    "append": {"source": AppendTokens},
    "append-shared": {"source": lambda spec: AppendTokens(spec, embed=SharedPatchEmbed)},
    "append-after-blind": {
        "reference": lambda spec: AppendTokens(
            spec, time="after", noise="shared", sees=["reference"], offset=2
        )
    },
    "mask-on-source": {
        "source": AppendTokens,
        "mask": lambda spec: AddToTokens(spec, segment="source"),
        "reference": lambda spec: AppendTokens(spec, time="after"),
    },
    "pooled-mask-on-source": {"source": AppendTokens, "mask": PooledMask},
    "pooled-mask-on-target": {"mask": lambda spec: PooledMask(spec, segment="target")},
    "mask-in-sequence": {"source": AppendTokens, "mask": AppendTokens},
    "pooled-mask-in-sequence": {"mask": lambda spec: AppendTokens(spec, embed=PooledPixels)},
    "frame-first": {"reference": PrependFrames},
    "references-first": {"reference": lambda spec: AppendTokens(spec, time="before")},
    "everything": {
        "source": LearnedScaledAdd,
        "mask": lambda spec: PooledMask(spec, segment="target"),
        "reference": lambda spec: AppendTokens(spec, time="after", noise="shared"),
    },
}

UNIFIED = {
    "context": {},
    "context-channels-and-frame": STRATEGIES["channels-and-frame"],
    "context-seen-only": {
        "instruction": lambda spec: AppendContext(spec, start=-20, sees=["instruction"])
    },
}


def model_with(slots, **changes):
    return EditModel.build(lambda: tiny(**changes), {"instruction": CrossAttend, **slots})


def conditions(*names, model=None):
    """Latents of those names; pixels for the slots of a model that read them."""
    reads = {} if model is None else {n: i.reads for n, i in model.injections.items()}
    given = {n: PIXELS if reads.get(n) == "pixels" else LATENTS[n] for n in names}
    return Conditions(given, Context(torch.randn(2, 5, 64)))


def velocity(model, given, x=None, sigma=None):
    x = torch.randn(SHAPE) if x is None else x
    return model(x, torch.tensor([0.3, 0.8]) if sigma is None else sigma, given)


@pytest.mark.parametrize("slots", STRATEGIES.values(), ids=STRATEGIES)
def test_composes_and_every_parameter_learns(slots):
    model = model_with(slots)
    if any(isinstance(part, LearnedScaledAdd) for part in model.injections.values()):
        randomised(model.injections)  # a gain on nothing learns nothing
    out = velocity(model, conditions(*slots, model=model))
    assert out.shape == SHAPE
    out.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("slots", UNIFIED.values(), ids=UNIFIED)
def test_one_self_attention_over_everything_learns_in_full(slots):
    model = model_with({"instruction": AppendContext, **slots}, block=UnifiedBlock)
    given = conditions(*(name for name in slots if name != "instruction"))
    valid = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    given = Conditions(given.latents, Context(given.context.tokens.requires_grad_(), valid))
    out = velocity(model, given)
    assert out.shape == SHAPE
    out.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert torch.equal(given.context.tokens.grad.any(2), valid)


@pytest.mark.parametrize("stream", ["image", "first"])
def test_both_branches_of_cross_attention_learn(stream):
    def block(shape):
        return DualCrossBlock(shape, stream=stream)

    model = model_with({"source": AppendTokens}, block=block)
    assert model.backbone.spec.streams == (stream,)
    given = conditions("source")
    added = Context(torch.randn(2, 3, 64), torch.tensor([[True] * 3, [True, False, False]]))
    both = Conditions(given.latents, replace(given.context, streams={stream: added}))
    x = torch.randn(SHAPE)
    out = velocity(model, both, x)
    assert out.shape == SHAPE
    assert not torch.allclose(out, velocity(model, given, x))
    out.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("start", "expected"), [(None, [-6, -2]), (7, [7, 11])])
def test_the_instruction_lies_before_the_frames(start, expected):
    model = EditModel.build(
        lambda: tiny(block=UnifiedBlock),
        {"instruction": lambda s: AppendContext(s, start=start), "reference": PrependFrames},
    )
    sequence = model.sequence(torch.randn(SHAPE), torch.rand(2), conditions("reference"))
    instruction = sequence["instruction"]
    assert instruction.positions[[0, -1], 0].tolist() == expected
    assert not instruction.positions[:, 1:].any()
    assert torch.equal(instruction.sigma, torch.zeros(2))
    # What comes before the video comes before its frames, wherever the instruction lies.
    assert sequence["reference"].positions[:, 0].unique().tolist() == [-3, -2, -1]


@pytest.mark.parametrize(
    "name", ["add", "sigma-add", "learned-add", "channels", "pooled-mask-on-target"]
)
def test_what_is_added_starts_as_the_pretrained_model(name):
    slots = STRATEGIES[name]
    model = model_with(slots)
    given, x = conditions(*slots, model=model), torch.randn(SHAPE)
    before = velocity(model, given, x)
    assert torch.equal(before, velocity(model, given.without(*slots), x))
    randomised(model.injections)
    assert not torch.allclose(before, velocity(model, given, x))


@pytest.mark.parametrize("absent", ["source", "mask", "reference"])
def test_an_absent_condition_leaves_its_injection_out(absent):
    slots = {"source": AppendTokens, "mask": AddToTokens, "reference": AppendTokens}
    model = model_with(slots)
    names = [n for n in slots if n != absent]
    present = model.sequence(torch.randn(SHAPE), torch.rand(2), conditions(*names))
    assert absent not in present.names
    assert set(present.names) == {"target", *names} - {"mask"}


def test_sigma_is_the_gain():
    model = model_with({"source": SigmaScaledAdd})
    randomised(model.injections)
    x, given = torch.randn(SHAPE), conditions("source")
    sigma = torch.tensor([0.0, 0.25])
    bare = model.sequence(x, sigma, given.without("source"))["target"].tokens
    with_it = model.sequence(x, sigma, given)["target"].tokens
    embedded, _ = model.injections["source"].embed(LATENTS["source"], None)
    torch.testing.assert_close(with_it - bare, sigma[:, None, None] * embedded)
    assert torch.equal(with_it[0], bare[0])


def test_the_learned_gain_starts_as_sigma_and_moves_away():
    model = model_with({"source": LearnedScaledAdd})
    injection, sigma = model.injections["source"], torch.tensor([0.0, 0.25])
    assert torch.equal(injection.scale(sigma), sigma)
    randomised(injection)
    expected = sigma + injection.gain(sigma[:, None])[:, 0]
    torch.testing.assert_close(injection.scale(sigma), expected)
    assert injection.scale(sigma)[0] != 0
    assert injection.bfloat16().scale(sigma).dtype == torch.float32


def test_a_shared_embedding_has_no_parameters_and_learns_from_the_source():
    model = model_with({"source": lambda spec: AppendTokens(spec, embed=SharedPatchEmbed)})
    assert list(model.injections["source"].parameters()) == []
    x, sigma, source = torch.randn(SHAPE), torch.rand(2), LATENTS["source"]
    sequence = model.sequence(x, sigma, conditions("source"))
    assert torch.equal(sequence["source"].tokens, model.backbone.embed(source)[0])
    sequence["source"].tokens.sum().backward()
    assert model.backbone.patch_embedding.weight.grad.any()


def test_a_mask_is_averaged_over_what_each_latent_stands_for():
    mask = torch.full((2, 3, 5, 32, 48), -1.0)
    mask[:, :, 3:, :16, :24] = 1.0  # the last two of four frames, the upper left quarter
    model = model_with({"mask": lambda spec: PooledMask(spec, segment="target")})
    embedding = model.injections["mask"].embed
    with torch.no_grad():
        embedding.proj.weight.fill_(0.25)  # means of patches
    sequence = model.sequence(torch.randn(SHAPE), torch.rand(2), Conditions())
    tokens, grid = embedding(mask, sequence)
    assert grid == (2, 2, 3)
    # A quarter of 32 x 48 is 1 x 1.5 patches; half of the frames of the second latent.
    expected = torch.full((2, 2, 3), -1.0)
    expected[1, 0] = torch.tensor([0.0, -0.5, -1.0])
    assert torch.equal(tokens[..., 0], expected.flatten().expand(2, -1))


@pytest.mark.parametrize(("frames", "t"), [(6, 3), (5, 1), (2, 3)])
def test_frames_that_latents_do_not_stand_for_are_refused(frames, t):
    with pytest.raises(ValueError, match=f"{frames} frames do not divide among {t} latent"):
        pool_to_grid(torch.ones(1, 1, frames, 4, 4), (t, 2, 2))


@pytest.mark.parametrize(("frames", "t"), [(1, 1), (3, 3), (9, 3), (13, 7)])
def test_ones_average_to_ones(frames, t):
    pooled = pool_to_grid(torch.ones(1, 1, frames, 4, 4), (t, 2, 2))
    assert torch.equal(pooled, torch.ones(1, 1, t, 2, 2))


@pytest.mark.parametrize(
    ("time", "offset", "expected"),
    [("aligned", 0, [0, 1, 2]), ("after", 0, [2, 3, 4]), ("before", 0, [-3, -2, -1]),
     ("after", 5, [7, 8, 9]), ("before", -1, [-4, -3, -2])],
)  # fmt: skip
def test_places_in_time(time, offset, expected):
    model = model_with({"reference": lambda s: AppendTokens(s, time=time, offset=offset)})
    sequence = model.sequence(torch.randn(SHAPE), torch.rand(2), conditions("reference"))
    positions = sequence["reference"].positions
    assert positions[:, 0].unique().tolist() == expected
    assert positions[:, 1:].unique(dim=0).tolist() == [[r, c] for r in range(2) for c in range(3)]


def test_what_comes_after_continues_behind_everything():
    after = {"time": "after", "noise": "shared"}
    model = model_with({n: lambda s: AppendTokens(s, **after) for n in ("source", "reference")})
    sigma = torch.rand(2)
    sequence = model.sequence(torch.randn(SHAPE), sigma, conditions("source", "reference"))
    assert sequence["source"].positions[:, 0].unique().tolist() == [2, 3]
    assert sequence["reference"].positions[:, 0].unique().tolist() == [4, 5, 6]
    assert torch.equal(sequence["source"].sigma, sigma)


def test_appended_tokens_are_clean_by_default():
    model = model_with({"source": AppendTokens})
    sequence = model.sequence(torch.randn(SHAPE), torch.rand(2), conditions("source"))
    assert torch.equal(sequence["source"].sigma, torch.zeros(2))


def test_references_of_another_size_can_be_appended_but_not_added():
    small = Conditions({"reference": torch.randn(2, 4, 1, 2, 4)})
    appended = EditModel.build(tiny, {"reference": AppendTokens})
    assert velocity(appended, small).shape == SHAPE
    added = EditModel.build(tiny, {"reference": AddToTokens})
    message = r"slot 'reference': .* grid of \(1, 1, 2\).*'target'.* has \(2, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        velocity(added, small)


def test_adding_to_a_segment_that_is_not_there_names_the_slot():
    model = model_with({"mask": lambda spec: AddToTokens(spec, segment="source")})
    with pytest.raises(ConfigError, match="mask: adds to segment 'source', .* only target"):
        velocity(model, conditions("mask"))


def test_cross_attention_needs_blocks_that_have_it():
    spec = BackboneSpec(64, 4, (1, 2, 2), cross_attention=False)
    with pytest.raises(ConfigError, match="CrossAttend needs blocks with cross-attention"):
        CrossAttend(spec)
    AppendContext(spec)
    with pytest.raises(ConfigError, match="leaves the cross-attention .* choose .*UnifiedBlock"):
        AppendContext(replace(spec, cross_attention=True))


def test_a_wrong_pairing_of_block_and_slot_is_one_line_at_build():
    with pytest.raises(ConfigError, match=r"^model\.instruction: CrossAttend needs .*$"):
        model_with({}, block=UnifiedBlock)
    with pytest.raises(ConfigError, match=r"^model\.instruction: AppendContext leaves .*$"):
        model_with({"instruction": AppendContext})


def test_streams_go_only_where_there_are_branches():
    spec = BackboneSpec(64, 4, (1, 2, 2), cross_attention=True)
    check_streams(replace(spec, streams=("image",)), ["image"])
    message = r"block: has no branch for the context's stream 'image' .*blocks\.DualCrossBlock"
    with pytest.raises(ConfigError, match=message):
        check_streams(spec, ["image"])
    two = Context(torch.zeros(2, 1, 64), streams={"image": Context(torch.zeros(2, 1, 64))})
    sequence = EditModel.build(tiny, {}).sequence(torch.randn(SHAPE), torch.rand(2), Conditions())
    with pytest.raises(ConfigError, match="instruction: the context has a stream 'image'"):
        CrossAttend(spec)(sequence, two, "instruction")
    append = AppendContext(replace(spec, cross_attention=False))
    with pytest.raises(ConfigError, match="appends the main stream alone, .* also has image"):
        append(sequence, two, "instruction")


@pytest.mark.parametrize(("key", "value"), [("time", "afer"), ("noise", "claen")])
def test_misspelt_choices_are_corrected(key, value):
    spec = BackboneSpec(64, 4, (1, 2, 2), cross_attention=True)
    with pytest.raises(ConfigError, match=rf"{key}: '{value}' is none of .* Did you mean"):
        AppendTokens(spec, **{key: value})


def test_signals_of_the_wrong_kind_name_the_slot():
    spec = BackboneSpec(64, 4, (1, 2, 2), cross_attention=True)
    with pytest.raises(TypeError, match="slot 'instruction' attends to an encoded context"):
        CrossAttend(spec)(None, torch.zeros(1), "instruction")
    sequence = EditModel.build(tiny, {}).sequence(torch.randn(SHAPE), torch.rand(2), Conditions())
    context = Context(torch.zeros(2, 1, 64))
    with pytest.raises(TypeError, match="slot 'source' is given an encoded context"):
        AddToTokens(spec)(sequence, context, "source")


def test_an_embedding_starts_at_zero_unless_told_otherwise():
    spec = BackboneSpec(64, 4, (1, 2, 2), cross_attention=True)
    assert not any(p.any() for p in PatchEmbed(spec).parameters())
    assert all(p.any() for p in PatchEmbed(spec, zero_init=False).parameters())
    assert len(list(PatchEmbed(spec, bias=False).parameters())) == 1
