"""Sizes, positions and both halves of a vision-language model, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny_vlm import QWEN3, QWEN25, WORDS, encoder, pictures, sizes

from vedit.context.frames import PatchGeometry
from vedit.context.shown import shown
from vedit.context.vlm import base_name, build_vlm, read
from vedit.context.vlm_config import geometry_of, vlm_config
from vedit.errors import ConfigError, WeightsError


@pytest.mark.parametrize("kind", [QWEN25, QWEN3])
@pytest.mark.parametrize("images", [pictures(1, 1), pictures(1, 4, 1)])
def test_positions_are_those_of_transformers_where_rows_and_columns_lead(
    kind: dict[str, Any], images: dict[str, torch.Tensor]
) -> None:
    model = encoder(kind)
    features = model.features(WORDS[:1], images)
    kinds, grids = _kinds_and_grids(model, features, images)
    expected, _ = model.tower.get_rope_index(features["ids"], kinds, **grids)
    if kind is QWEN25 and "reference" in images:  # one second apart: time leads, see the docstring
        assert not torch.equal(features["positions"].permute(2, 0, 1), expected)
        model.tower.config.vision_config.tokens_per_second = 1
        model.config.vision_config.tokens_per_second = 1
        features = model.features(WORDS[:1], images)
        expected, _ = model.tower.get_rope_index(features["ids"], kinds, **grids)
    assert torch.equal(features["positions"].permute(2, 0, 1), expected)


@pytest.mark.parametrize("kind", [QWEN25, QWEN3])
@pytest.mark.parametrize("images", [pictures(1, 1), pictures(1, 4, 1), pictures(1, 9)])
def test_hidden_states_are_those_of_transformers(
    kind: dict[str, Any], images: dict[str, torch.Tensor]
) -> None:
    model = encoder(kind)
    features = model.features(WORDS[:1], images)
    kinds, grids = _kinds_and_grids(model, features, images)
    pixels = {}
    for one in _shown_by(model, images):
        name = "pixel_values" if one.token == "<|image_pad|>" else "pixel_values_videos"
        pixels[name] = one.patches[0]
    special = model.words.special
    model.tower.config.image_token_id = special.image
    model.tower.config.video_token_id = special.video
    expected = model.tower(
        input_ids=features["ids"],
        position_ids=features["positions"].permute(2, 0, 1),
        mm_token_type_ids=kinds,
        **pixels,
        **grids,
    ).last_hidden_state
    (found,) = model.hidden_states(features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def _shown_by(model: Any, images: dict[str, torch.Tensor]) -> Any:
    return shown(images, model.views, model.geometry, 1, model.tells_time)[1]


def _kinds_and_grids(
    model: Any, features: dict[str, torch.Tensor], images: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What transformers wants to know: 1 for tokens of images, 2 for those of videos."""
    ids, special = features["ids"], model.words.special
    kinds = (ids == special.image).int() + 2 * (ids == special.video).int()
    grids: dict[str, torch.Tensor] = {}
    for one in _shown_by(model, images):
        name = "image_grid_thw" if one.token == "<|image_pad|>" else "video_grid_thw"
        grids[name] = torch.tensor([one.grid])
    return kinds, grids


def test_layers_count_from_the_embeddings_to_the_last_norm() -> None:
    model = encoder()
    features = model.features(WORDS[:1], {})
    first, middle, last = model.hidden_states(features, layers=[0, 1, 2])
    assert torch.equal(first, model.tower.language_model.embed_tokens(features["ids"]))
    assert torch.equal(last, model.hidden_states(features)[0])
    states = model.tower.language_model(
        input_ids=features["ids"],
        position_ids=features["positions"].permute(2, 0, 1),
        output_hidden_states=True,
    ).hidden_states
    for found, expected in zip((first, middle, last), states, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"layers \[3\]: the language model has 2"):
        model.hidden_states(features, layers=[3])


def test_the_hooks_are_gone_after_the_call() -> None:
    model = encoder()
    ids = torch.tensor([[5, 6]])
    places = torch.tensor([[[0] * 3, [1] * 3]])
    plain = read(model.tower, ids, places, [])[0]
    mask = torch.tensor([[True, False]])
    changed = read(model.tower, ids, places, [(mask, torch.ones(1, 1, 32))])[0]
    assert not torch.allclose(plain, changed)
    assert torch.equal(read(model.tower, ids, places, [])[0], plain)


def test_names_of_both_styles_are_understood() -> None:
    assert base_name("model.embed_tokens.weight") == "language_model.embed_tokens.weight"
    assert base_name("model.visual.merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert base_name("language_model.norm.weight") == "language_model.norm.weight"


def test_mistakes_in_sizes_name_the_key() -> None:
    key = "model.context.init_args.config"
    with pytest.raises(ConfigError, match=f"{key}: is null and so is weights"):
        vlm_config(None, None)
    with pytest.raises(ConfigError, match=f"{key}.model_type: 'qwen2_5' is no model"):
        vlm_config({"model_type": "qwen2_5"}, None)
    wrong = sizes(QWEN25)
    wrong["text_config"]["hiden_size"] = 3
    with pytest.raises(ConfigError, match=r"text_config.hiden_size: no such size. Did you mean 'h"):
        vlm_config(wrong, None)
    with pytest.raises(ConfigError, match="has no `visual` and `language_model`"):
        build_vlm(vlm_config({"model_type": "bert", "hidden_size": 12}, None))
    with pytest.raises(WeightsError, match="no such folder"):
        vlm_config(None, "no/such/folder")


def test_towers_differ_in_how_they_cut() -> None:
    assert geometry_of(vlm_config(sizes(QWEN25), None)) == PatchGeometry(14, 2, 2)
    assert geometry_of(vlm_config(sizes(QWEN3), None)) == PatchGeometry(
        16, 2, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
