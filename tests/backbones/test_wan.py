"""What WanDiT does beyond its parity with diffusers (tests/parity/test_wan.py)."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tests.wan import PROJECTION, pair, sequence, tiny

from vedit.backbones.blocks import Block, BlockShape, CrossBlock
from vedit.backbones.recompute import RecomputeBlocks
from vedit.backbones.wan import WanDiT, sinusoid, unpatchify
from vedit.errors import ConfigError
from vedit.tokens import Context, Segment, TokenSequence, grid_positions


def with_source(model, dtype=torch.float64, sees=None, offset=0):
    """Target and an aligned source of another noise level, with a padded context."""
    x = torch.randn(2, 4, 2, 4, 6, dtype=dtype)
    start = TokenSequence.of_target(x, torch.tensor([0.3, 0.9], dtype=dtype), model.embed)
    tokens, grid = model.embed(torch.randn_like(x))
    sigma = torch.tensor([0.0, 0.2], dtype=dtype)
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    context = Context(torch.randn(2, 5, model.spec.width, dtype=dtype), valid)
    source = Segment("source", tokens, grid_positions(grid, None, offset), sigma, grid, sees)
    return start.with_context(context).append(source)


def test_the_order_of_segments_in_memory_does_not_matter():
    model = tiny().double()
    forwards = with_source(model)
    backwards = replace(forwards, segments=forwards.segments[::-1])
    torch.testing.assert_close(model(forwards), model(backwards), rtol=0, atol=1e-12)


def test_moving_every_position_changes_nothing_and_moving_one_segment_does():
    model = tiny().double()
    here = with_source(model)

    def moved(names):
        return replace(
            here,
            segments=tuple(
                replace(s, positions=s.positions + torch.tensor([-9, 4, 2]))
                if s.name in names
                else s
                for s in here.segments
            ),
        )

    out = model(here)
    torch.testing.assert_close(model(moved(("target", "source"))), out, rtol=0, atol=1e-12)
    assert float((model(moved(("source",))) - out).detach().abs().max()) > 1e-6


def test_a_level_matters_per_sample_and_segment():
    model = tiny().double()
    here = with_source(model)
    out = model(here).detach()
    source = here["source"]
    changed = replace(source, sigma=torch.tensor([0.0, 0.7], dtype=torch.float64))
    other = model(replace(here, segments=(here["target"], changed))).detach()
    torch.testing.assert_close(other[0], out[0], rtol=0, atol=1e-12)
    assert float((other[1] - out[1]).abs().max()) > 1e-6


def test_a_segment_that_sees_only_itself_is_untouched_by_the_target():
    """Then the tokens of the source are the same whatever the target holds, in every block."""
    model = tiny().double()
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: states.append(out))
    outs = []
    blind = with_source(model, sees=("source",))
    for x in torch.randn(2, 2, 4, 2, 4, 6, dtype=torch.float64):
        states: list[torch.Tensor] = []
        target = replace(blind["target"], tokens=model.embed(x)[0])
        model(replace(blind, segments=(target, blind["source"])))
        outs.append(states)
    n = blind["target"].tokens.shape[1]
    for a, b in zip(*outs, strict=True):
        assert torch.equal(a[:, n:], b[:, n:])
        assert not torch.allclose(a[:, :n], b[:, :n])


def test_padding_of_the_context_is_not_read():
    model = tiny().double()
    here = with_source(model)
    tokens = here.context.tokens.clone()
    tokens[1, 2:] = 100.0
    other = here.with_context(Context(tokens, here.context.valid))
    torch.testing.assert_close(model(other), model(here), rtol=0, atol=1e-12)


def test_without_a_context_cross_attention_is_skipped():
    model = tiny()
    x, sigma = torch.randn(2, 4, 1, 4, 4), torch.rand(2)
    model(sequence(model, x, sigma, None)).square().sum().backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert unused == {n for n, _ in model.named_parameters() if ".attn2." in n or ".norm2." in n}


def test_recompute_runs_each_block_again():
    model = tiny(recompute=RecomputeBlocks())
    calls = []
    for block in model.blocks:
        block.ffn.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 4, 1, 4, 4)
    out = model(sequence(model, x, torch.rand(1), torch.randn(1, 3, 64)))
    assert len(calls) == 2
    out.sum().backward()
    assert len(calls) == 4


def test_unpatchify_undoes_patches():
    latents = torch.arange(2 * 3 * 2 * 4 * 6.0).reshape(2, 3, 2, 4, 6)
    blocks = latents.unfold(3, 2, 2).unfold(4, 2, 2)  # (B, C, t, h/2, w/2, 2, 2)
    patches = blocks.permute(0, 2, 3, 4, 5, 6, 1).reshape(2, 12, 12)
    assert torch.equal(unpatchify(patches, (2, 2, 3), (1, 2, 2)), latents)


def test_time_features_are_cosines_then_sines():
    features = sinusoid(torch.tensor([0.0, 1000.0]), 8)
    assert features[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert float(features[1, 0]) == pytest.approx(torch.tensor(1000.0).cos().item())


def test_another_block_can_be_chosen_and_says_whether_it_takes_a_context():
    class SelfBlock(Block):
        cross_attention = False

        def __init__(self, shape: BlockShape) -> None:
            super().__init__()
            self.inner = CrossBlock(shape)

        def forward(self, tokens, around):
            return self.inner(tokens, replace(around, context=None))

    model = tiny(block=SelfBlock)
    assert not model.spec.cross_attention
    assert tiny().spec.cross_attention
    model(sequence(model, torch.randn(1, 4, 1, 4, 4), torch.rand(1), None))


def test_weights_of_a_diffusers_folder_load_strictly(tmp_path):
    _, theirs = pair()
    theirs.save_pretrained(tmp_path)
    ours = tiny(weights=str(tmp_path))
    ours.load_weights()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_weights_stored_in_half_precision_train_in_single(tmp_path):
    _, theirs = pair()
    theirs.half().save_pretrained(tmp_path)
    ours = tiny(weights=str(tmp_path))
    ours.load_weights()
    assert {p.dtype for p in ours.parameters()} == {torch.float32}


def test_heads_that_shapes_do_not_tell_apart_are_refused(tmp_path):
    from vedit.errors import WeightsError

    _, theirs = pair()
    theirs.save_pretrained(tmp_path)
    ours = tiny(weights=str(tmp_path), num_attention_heads=4, attention_head_dim=16)
    with pytest.raises(WeightsError, match=r"init_args\.num_attention_heads is 4 but.* have 2"):
        ours.load_weights()


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from vedit.errors import WeightsError

    state = {k: v for k, v in tiny().state_dict().items() if k != "proj_out.bias"}
    save_file(state | {PROJECTION + "x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"proj_out\.bias"):
        tiny(weights=str(tmp_path)).load_weights()


def test_latents_that_cannot_be_patched_are_named():
    with pytest.raises(ValueError, match=r"latents of \(1, 5, 4\) .* patches of \(1, 2, 2\)"):
        tiny().embed(torch.randn(1, 4, 1, 5, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_head_dim": 4}, "attention_head_dim: .* got 4"),
        ({"attention_head_dim": 33}, "attention_head_dim: .* got 33"),
        ({"num_layers": 0}, "num_layers: .* got 0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        WanDiT(**{"num_layers": 1, "num_attention_heads": 1, "ffn_dim": 8, **changes})
