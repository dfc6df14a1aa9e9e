"""Patch embeddings start from published weights, or say that there are none."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from tests.wan import tiny

from vedit.backbones.base import BackboneSpec
from vedit.conditioning.add import ConcatChannels
from vedit.conditioning.append import AppendTokens
from vedit.conditioning.embed import PatchEmbed
from vedit.errors import WeightsError
from vedit.model import EditModel

SPEC = BackboneSpec(64, 4, (1, 2, 2), cross_attention=True)


def publish(folder, channels=4, bias=True):
    folder.mkdir(parents=True, exist_ok=True)
    given = {"patch_embedding.weight": torch.randn(64, channels, 1, 2, 2)}
    given |= {"patch_embedding.bias": torch.randn(64)} if bias else {}
    save_file({**given, "others.weight": torch.zeros(1)}, folder / "model.safetensors")
    return {name.rpartition(".")[2]: tensor for name, tensor in given.items()}


def loaded(folder, **options):
    embed = PatchEmbed(SPEC, weights=str(folder), **options)
    embed.load_weights()
    return embed.proj


def test_a_model_loads_the_embeddings_of_its_slots(tmp_path):
    given = publish(tmp_path / "ref_embedder")
    published = lambda spec: PatchEmbed(spec, weights=str(tmp_path / "ref_embedder"))  # noqa: E731
    model = EditModel.build(tiny, {"reference": lambda s: AppendTokens(s, published)})
    proj = model.injections["reference"].embed.proj
    assert torch.equal(proj.weight, given["weight"])
    assert torch.equal(proj.bias, given["bias"])
    with torch.device("meta"):  # only shapes are asked for
        model = EditModel.build(tiny_shape, {"reference": lambda s: AppendTokens(s, published)})
    assert model.injections["reference"].embed.proj.weight.is_meta


def tiny_shape():
    from tests.wan import TINY

    from vedit.backbones.wan import WanDiT

    return WanDiT(**TINY)


@pytest.mark.parametrize(("half", "kept"), [("first", slice(0, 4)), ("second", slice(4, 8))])
def test_half_of_a_convolution_over_both(tmp_path, half, kept):
    given = publish(tmp_path, channels=8)
    proj = loaded(tmp_path, weights_slice=half)
    assert torch.equal(proj.weight, given["weight"][:, kept])
    # The one bias of the sum belongs to the first half.
    assert torch.equal(proj.bias, given["bias"] if half == "first" else torch.zeros(64))
    assert torch.equal(loaded(tmp_path, weights_slice=half, bias=False).weight, proj.weight)


@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "no folder"])
def test_a_checkpoint_without_this_part_leaves_it_at_zero(tmp_path, caplog, there):
    folder = tmp_path / "checkpoint" / "source_embedder"
    (folder if there else folder.parent).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "vedit"):
        proj = loaded(folder, zero_init=False)
    assert not any(parameter.any() for parameter in proj.parameters())
    assert [record.message for record in caplog.records] == [
        f"{folder}: no patch embedding there, it starts at zero"
    ]


def test_a_checkpoint_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(WeightsError, match="no such folder"):
        loaded(tmp_path / "chekpoint" / "source_embedder")


def test_weights_of_another_kind_are_a_mistake(tmp_path):
    publish(tmp_path / "wide", channels=8)
    with pytest.raises(WeightsError, match="another shape: weight is .64, 8"):
        loaded(tmp_path / "wide")
    publish(tmp_path / "narrow")
    with pytest.raises(WeightsError, match="takes 4 channels; to be split"):
        loaded(tmp_path / "narrow", weights_slice="second")
    publish(tmp_path / "bare", bias=False)
    with pytest.raises(WeightsError, match="1 missing: bias"):
        loaded(tmp_path / "bare")
    (tmp_path / "other").mkdir()
    save_file({"others.weight": torch.zeros(1)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(WeightsError, match="2 missing: weight, bias"):
        loaded(tmp_path / "other")


def test_concatenated_channels_take_the_second_half(tmp_path):
    given = publish(tmp_path, channels=8)
    options = {"weights": str(tmp_path), "weights_slice": "second"}
    model = EditModel.build(tiny, {"source": lambda spec: ConcatChannels(spec, **options)})
    assert torch.equal(model.injections["source"].embed.proj.weight, given["weight"][:, 4:])
    assert len(list(model.injections.parameters())) == 1
