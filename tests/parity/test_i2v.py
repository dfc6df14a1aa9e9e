"""A context of two streams computes what Wan's image-to-video models do in diffusers."""

import logging

import pytest
import torch
from diffusers import WanTransformer3DModel
from tests.wan import PROJECTION, TINY, randomised

from vedit.backbones.blocks import CrossBlock, DualCrossBlock
from vedit.backbones.wan import WanDiT
from vedit.errors import WeightsError
from vedit.model import materialise
from vedit.tokens import Context, TokenSequence

TOLERANCE = 1e-5
WIDTH = TINY["num_attention_heads"] * TINY["attention_head_dim"]
TEXT = 512  # diffusers takes the last 512 tokens of the context for text, all before for images
OTHERS = (PROJECTION, "condition_embedder.image_embedder.")


def theirs(channels: int = 4, **changes) -> WanTransformer3DModel:
    images = {"image_dim": 20, "added_kv_proj_dim": WIDTH}
    sizes = {**TINY, "in_channels": channels, "out_channels": 4, **images, **changes}
    return randomised(WanTransformer3DModel(**sizes))


def ours(weights=None, **changes) -> WanDiT:
    made = {"block": DualCrossBlock, "input_half": None, **changes}
    return WanDiT(**TINY, weights=None if weights is None else str(weights), **made)


def loaded(folder, **changes) -> WanDiT:
    return materialise(lambda: ours(folder, **changes))


def velocity(model: WanDiT, x, sigma, text, image=None):
    streams = {} if image is None else {"image": Context(image)}
    start = TokenSequence.of_target(x, sigma, model.embed)
    return model(start.with_context(Context(text, streams=streams)))


def test_forward_and_gradients(tmp_path):
    """An image-to-video checkpoint loads strictly and computes the same, forward and backward."""
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    kept = {name for name in reference.state_dict() if not name.startswith(OTHERS)}
    assert set(model.state_dict()) == kept
    assert model.spec.streams == ("image",)

    x, sigma = torch.randn(2, 4, 2, 4, 4), torch.rand(2)
    text, image = torch.randn(2, TEXT, TINY["text_dim"]), torch.randn(2, 7, 20)
    embedder = reference.condition_embedder
    tokens = [embedder.text_embedder(text).detach(), embedder.image_embedder(image).detach()]
    out = velocity(model, x, sigma, *tokens)
    out_ = reference(x, 1000 * sigma, text, encoder_hidden_states_image=image).sample
    assert float((out - out_).detach().abs().max()) < TOLERANCE
    assert float((out - velocity(model, x, sigma, tokens[0])).detach().abs().max()) > 1e-3

    weight = torch.randn_like(out) / out.numel() ** 0.5
    (out * weight).sum().backward()
    (out_ * weight).sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        gradient = expected[name].grad
        scale = max(1.0, float(gradient.abs().max()))
        assert float((parameter.grad - gradient).abs().max()) / scale < TOLERANCE, name


def test_text_to_video_weights_start_unchanged_in_function(tmp_path, caplog):
    reference = theirs(image_dim=None, added_kv_proj_dim=None)
    reference.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "vedit"):
        model = loaded(tmp_path)
    new = "10 new, without effect at the start (attn2.add_k_proj, attn2.add_v_proj, attn2.norm_"
    assert new in caplog.text
    x, sigma = torch.randn(2, 4, 2, 4, 4), torch.rand(2)
    text, image = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    out = velocity(model, x, sigma, text, image)
    plain = velocity(loaded(tmp_path, block=CrossBlock), x, sigma, text)
    assert torch.equal(out, plain)
    out.square().sum().backward()
    assert model.blocks[0].attn2.add_v_proj.weight.grad.any(), "the branch could not learn"


def test_a_stream_without_tokens_for_a_sample_adds_nothing_to_it(tmp_path):
    theirs().save_pretrained(tmp_path)
    model = loaded(tmp_path)
    x, sigma, text = torch.randn(2, 4, 1, 4, 4), torch.rand(2), torch.randn(2, 5, WIDTH)
    valid = torch.tensor([[True] * 3, [False] * 3])
    context = Context(text, streams={"image": Context(torch.randn(2, 3, WIDTH), valid)})
    out = model(TokenSequence.of_target(x, sigma, model.embed).with_context(context))
    without = velocity(model, x, sigma, text)
    torch.testing.assert_close(out[1], without[1])
    assert not torch.allclose(out[0], without[0])


def test_half_an_image_branch_is_refused(tmp_path):
    reference = theirs()
    del reference.blocks[1].attn2.norm_added_k
    reference.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"1 missing: blocks\.1\.attn2\.norm_added_k\.weight"):
        loaded(tmp_path)


def test_the_image_branch_is_no_part_of_a_plain_block(tmp_path):
    theirs().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"10 unexpected: blocks\.0\.attn2\.add_k_proj"):
        loaded(tmp_path, block=CrossBlock)


def test_the_channels_of_mask_and_image_stay_outside(tmp_path):
    """Image-to-video models take noisy latents, a mask and an image's latents side by side."""
    reference = theirs(channels=4 + 1 + 4)
    reference.save_pretrained(tmp_path)
    model = loaded(tmp_path, input_half="first")
    x, sigma = torch.randn(2, 4, 1, 4, 4), torch.rand(2)
    text, image = torch.randn(2, TEXT, TINY["text_dim"]), torch.randn(2, 7, 20)
    embedder = reference.condition_embedder
    out = velocity(model, x, sigma, embedder.text_embedder(text), embedder.image_embedder(image))
    wide = torch.cat([x, torch.zeros(2, 5, 1, 4, 4)], 1)
    out_ = reference(wide, 1000 * sigma, text, encoder_hidden_states_image=image).sample
    assert float((out - out_).detach().abs().max()) < TOLERANCE
