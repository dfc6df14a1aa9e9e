"""Images as tokens: preparation, which images are read, storage, loading, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from vedit.backbones.base import BackboneSpec
from vedit.context.clip import CLIPImages, prepare
from vedit.errors import ConfigError, WeightsError
from vedit.model import materialise

SPEC = BackboneSpec(width=24, latent_channels=4, patch=(1, 2, 2), cross_attention=True)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TOKENS = 5  # of one image: 2 x 2 patches and the class token
WORDS = ["one", "two"]


def encoder(**changes: Any) -> CLIPImages:
    return CLIPImages(SPEC, **{**SIZES, **changes})


def pictures(batch: int = 2, reference: bool = True) -> dict[str, torch.Tensor]:
    images = {"source": torch.rand(batch, 3, 5, 28, 42) * 2 - 1}
    if reference:
        images["reference"] = torch.rand(batch, 3, 1, 28, 42) * 2 - 1
    return images


@pytest.fixture
def saved(tmp_path: Path) -> tuple[CLIPVisionModel, Path]:
    original = CLIPVisionModel(CLIPVisionConfig(**SIZES, hidden_act="gelu")).eval()
    original.save_pretrained(tmp_path)
    return original, tmp_path


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (224, 224)])
def test_preparation_is_that_of_the_published_processor(size: tuple[int, int]) -> None:
    levels = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    levels = torch.nn.functional.avg_pool2d(levels.float(), 5, 1, 2).round().to(torch.uint8)
    theirs = CLIPImageProcessor()(images=list(levels), return_tensors="pt").pixel_values
    ours = prepare(levels / 127.5 - 1, 224)
    assert ours.shape == theirs.shape
    # They round to whole grey levels after resizing: half a level is 0.5 / 255 / 0.26 = 0.0075.
    assert (ours - theirs).abs().max() < 0.016


def test_stretching_keeps_the_sides_that_cropping_loses() -> None:
    image = torch.full((1, 3, 28, 84), -1.0)
    image[..., :10] = image[..., -10:] = 1.0
    assert prepare(image, 28, "crop").std(dim=(-1, -2)).max() < 1e-6
    assert prepare(image, 28, "stretch")[..., [0, -1]].min() > 1


def test_features_are_the_penultimate_hidden_states(
    saved: tuple[CLIPVisionModel, Path],
) -> None:
    original, folder = saved
    model = materialise(lambda: encoder(weights=str(folder)))
    images = pictures()
    with torch.no_grad():
        first = original(prepare(images["source"][:, :, 0], 28), output_hidden_states=True)
        second = original(prepare(images["reference"][:, :, 0], 28), output_hidden_states=True)
    image = model.features(WORDS, images)["image"]
    torch.testing.assert_close(image[:, :TOKENS], first.hidden_states[-2], atol=1e-6, rtol=0)
    torch.testing.assert_close(image[:, TOKENS:], second.hidden_states[-2], atol=1e-6, rtol=0)
    assert not any(p.is_meta for p in (*model.parameters(), *model.buffers()))


def test_any_layer_can_be_read(saved: tuple[CLIPVisionModel, Path]) -> None:
    original, folder = saved
    images = pictures()
    pixels = prepare(images["source"][:, :, 0], 28)
    with torch.no_grad():
        hidden = original(pixels, output_hidden_states=True).hidden_states
    for layer in (-1, -3):
        model = materialise(
            lambda layer=layer: encoder(weights=str(folder), images=["source"], read_layer=layer)
        )
        got = model.features(WORDS, images)["image"]
        torch.testing.assert_close(got, hidden[layer], atol=1e-6, rtol=0)


def test_a_tower_with_projection_or_text_beside_it_loads(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = encoder(read_layer=-1)
    state = {f"vision_model.{k}": v for k, v in original.tower.state_dict().items()}
    state["vision_model.post_layernorm.weight"] = torch.ones(16)
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    state |= {"text_model.anything": torch.ones(1), "visual_projection.weight": torch.ones(1)}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"vision_config": {}}')
    model = materialise(lambda: encoder(weights=str(tmp_path), read_layer=-1))
    images = pictures()
    assert torch.equal(
        model.features(WORDS, images)["image"], original.features(WORDS, images)["image"]
    )


def test_a_missing_reference_leaves_its_place_empty() -> None:
    model = encoder()
    whole, images = pictures(), pictures(reference=False)
    images["source"] = whole["source"]
    alone = model(WORDS, images)
    assert alone.valid is None
    assert alone.tokens.shape == (2, TOKENS, 24)
    torch.testing.assert_close(alone.tokens, model(WORDS, whole).tokens[:, :TOKENS])

    order = encoder(images=["reference", "source"])
    context = order(WORDS, images)
    assert context.valid is not None
    assert context.valid.tolist() == [[False] * TOKENS + [True] * TOKENS] * 2


def test_stored_features_give_the_same_context() -> None:
    model = encoder().requires_grad_(False)
    images = pictures(reference=False)
    live = model(WORDS, images)
    features = model.features(WORDS, images)["image"]
    # Beside a sample with a reference, storage pads the one without.
    padded = torch.nn.functional.pad(features, (0, 0, 0, TOKENS))
    context = model(WORDS, {}, {"image": padded})
    assert context.valid is not None
    torch.testing.assert_close(context.tokens[:, :TOKENS], live.tokens)
    assert context.valid.sum(1).tolist() == [TOKENS, TOKENS]


def test_learned_positions_tell_images_apart() -> None:
    model = encoder()
    image = torch.rand(1, 3, 28, 28)
    images = {"source": image.unsqueeze(2), "reference": image.unsqueeze(2)}
    assert model.connector.pos_embed is not None
    tokens = model(["a"], images).tokens
    torch.testing.assert_close(tokens[:, :TOKENS], tokens[:, TOKENS:], msg="zero at first")
    torch.nn.init.normal_(model.connector.pos_embed)
    tokens = model(["a"], images).tokens
    assert (tokens[:, :TOKENS] - tokens[:, TOKENS:]).abs().max() > 0.1
    assert encoder(images=["source"]).connector.pos_embed is None


def test_gradients_reach_everything_that_trains() -> None:
    model = encoder()
    model(WORDS, pictures()).tokens.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.tower.requires_grad_(False)
    assert not model.features(WORDS, pictures())["image"].requires_grad


def test_null_is_the_embedding_of_nothing() -> None:
    model = encoder()
    null = model.null(3)
    assert null.tokens.shape == (3, TOKENS, 24)
    torch.testing.assert_close(null.tokens[0, 0], null.tokens[2, -1])


def test_the_published_tower_fits_its_size() -> None:
    with torch.device("meta"):
        model = CLIPImages(SPEC, read_layer=-1)
    unread = 2 * 1280  # the norm of the pooled output
    assert sum(p.numel() for p in model.tower.parameters()) == 630_766_080 - unread
    assert model.tokens_per_image == 257


def test_sizes_that_disagree_name_the_key(saved: tuple[CLIPVisionModel, Path]) -> None:
    with pytest.raises(WeightsError, match="init_args.num_hidden_layers is 4 but the weights have"):
        encoder(weights=str(saved[1]), num_hidden_layers=4).load_weights()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ["refrence"]}, "no image 'refrence'.* Did you mean 'reference'"),
        ({"images": []}, "images is \\[\\], expected one or more"),
        ({"images": ["source", "source"]}, "each once"),
        ({"read_layer": 2}, "read_layer is 2, expected -3 to -1: the tower has 3 layers"),
        ({"read_layer": -4}, "read_layer is -4"),
    ],
)
def test_mistakes_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder(**changes)


def test_a_batch_without_any_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads reference, but a batch has none; there are: sour"):
        encoder(images=["reference"]).features(WORDS, pictures(reference=False))


def test_fingerprint_follows_what_is_read(saved: tuple[CLIPVisionModel, Path]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"images": ["source"]},
        {"read_layer": -1},
        {"fit": "stretch"},
        {"dtype": "bfloat16"},
    ]
    prints = [encoder(weights=str(saved[1]), **c).fingerprint() for c in changes]
    assert len(set(prints)) == len(prints)
    assert encoder(weights=str(saved[1])).fingerprint() == prints[0]
