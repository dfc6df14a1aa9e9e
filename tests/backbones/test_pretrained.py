"""Published weights for blocks that use more or less than they hold."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.wan import PROJECTION, pair, tiny

from vedit.backbones.blocks import UnifiedBlock
from vedit.errors import WeightsError
from vedit.model import materialise


@pytest.fixture
def folder(tmp_path):
    _, theirs = pair()
    theirs.save_pretrained(tmp_path)
    return tmp_path


def test_wans_weights_load_into_unified_blocks(folder, caplog):
    with caplog.at_level(logging.INFO, "vedit"):
        ours = materialise(lambda: tiny_on_meta(folder, block=UnifiedBlock))
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    unused = [n for n in stored if n not in ours.state_dict() and not n.startswith(PROJECTION)]
    assert {n.split(".")[2] for n in unused} == {"attn2", "norm2"}
    line = f"{len(ours.state_dict())} tensors loaded; {len(unused)} unused by these blocks (attn2."
    assert line in caplog.text


def tiny_on_meta(folder, **changes):
    from tests.wan import TINY

    from vedit.backbones.wan import WanDiT

    return WanDiT(**{**TINY, **changes}, weights=str(folder))


def test_a_unified_block_still_refuses_what_it_does_not_know(folder):
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "blocks.0.attn3.to_q.weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"1 unexpected: blocks\.0\.attn3\.to_q\.weight"):
        tiny_on_meta(folder, block=UnifiedBlock).load_weights()


def wider(folder, channels):
    """A checkpoint whose input convolution takes that many channels."""
    _, theirs = pair(in_channels=channels, out_channels=4)
    theirs.save_pretrained(folder)
    return theirs.patch_embedding.weight


@pytest.mark.parametrize("half", ["first", "second"])
@pytest.mark.parametrize("channels", [8, 9], ids=["two-halves", "and-a-mask"])
def test_half_of_a_wide_input_convolution(tmp_path, half, channels):
    weight = wider(tmp_path, channels)
    ours = tiny_on_meta(tmp_path, input_half=half)
    ours.load_weights()
    expected = weight[:, :4] if half == "first" else weight[:, -4:]
    assert torch.equal(ours.patch_embedding.weight, expected)


def test_a_wide_input_convolution_is_not_taken_unasked(tmp_path):
    wider(tmp_path, 8)
    with pytest.raises(WeightsError, match="takes 8 channels, this backbone 4; set .*input_half"):
        tiny_on_meta(tmp_path).load_weights()


def test_a_narrow_input_convolution_has_no_halves(folder):
    with pytest.raises(WeightsError, match="takes 4 channels; to be split .* at least 8"):
        tiny_on_meta(folder, input_half="first").load_weights()
    assert tiny().spec.streams == ()
