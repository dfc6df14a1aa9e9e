"""Words and images encoded apart: streams, gradients, storage, loading, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from vedit.backbones.base import BackboneSpec
from vedit.context.clip import CLIPImages
from vedit.context.decoupled import Decoupled
from vedit.context.umt5 import UMT5
from vedit.errors import ConfigError, WeightsError
from vedit.model import materialise

TOKENIZER = str(Path(__file__).parents[2] / "nano" / "tokenizer")
SPEC = BackboneSpec(24, 4, (1, 2, 2), cross_attention=True, streams=("image",))
TEXT: dict[str, Any] = {
    "d_model": 16,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "d_kv": 8,
    "vocab_size": 1000,
    "max_tokens": 24,
    "tokenizer": TOKENIZER,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WORDS = ["Blur", "Turn the whole clip upside down, please"]


def encoder(
    text: dict[str, Any] | None = None,
    image: dict[str, Any] | None = None,
    spec: BackboneSpec = SPEC,
) -> Decoupled:
    return Decoupled(
        spec,
        text=lambda spec: UMT5(spec, **{**TEXT, **(text or {})}),
        image=lambda spec: CLIPImages(spec, **{**IMAGE, **(image or {})}),
    )


def pictures(batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "source": torch.rand(batch, 3, 5, 28, 42) * 2 - 1,
        "reference": torch.rand(batch, 3, 1, 28, 42) * 2 - 1,
    }


def test_the_two_streams_are_those_of_the_two_encoders() -> None:
    torch.manual_seed(3)
    model = encoder()
    torch.manual_seed(3)
    text, image = UMT5(SPEC, **TEXT), CLIPImages(SPEC, **IMAGE)
    images = pictures()
    context = model(WORDS, images)
    assert torch.equal(context.tokens, text(WORDS, images).tokens)
    assert list(context.streams) == ["image"]
    assert torch.equal(context.streams["image"].tokens, image(WORDS, images).tokens)
    assert model.reads_images == ("source", "reference")


def test_every_parameter_has_one_name_and_a_gradient() -> None:
    model = encoder()
    names = list(model.state_dict())
    assert {name.split(".")[0] for name in names} == {"tower", "connector"}
    assert {name.split(".")[1] for name in names} == {"text", "image"}
    context = model(WORDS, pictures())
    (context.tokens.square().sum() + context.streams["image"].tokens.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_samples_do_not_depend_on_their_batch() -> None:
    model, images = encoder(), pictures()
    together = model(WORDS, images)
    for i, words in enumerate(WORDS):
        alone = model([words], {name: image[i : i + 1] for name, image in images.items()})
        torch.testing.assert_close(alone.tokens[0], together.tokens[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            alone.streams["image"].tokens[0], together.streams["image"].tokens[i], atol=1e-5, rtol=0
        )


def test_stored_features_give_the_same_context() -> None:
    model, images = encoder().requires_grad_(False), pictures()
    features = model.features(WORDS, images)
    assert sorted(features) == ["image.image", "text.text"]
    live, stored = model(WORDS, images), model(WORDS, {}, features)
    assert torch.equal(live.tokens, stored.tokens)
    assert torch.equal(live.streams["image"].tokens, stored.streams["image"].tokens)


def test_null_is_the_empty_instruction_and_leaves_the_images_alone() -> None:
    model = encoder().requires_grad_(False)
    null = model.null(2)
    torch.testing.assert_close(null.tokens, model(["", ""], pictures()).tokens)
    assert null.streams == {}


def test_without_its_images_there_is_no_stream() -> None:
    model = encoder(image={"images": ["reference"]}).requires_grad_(False)
    images = {"source": pictures()["source"]}
    features = model.features(WORDS, images)
    assert list(features) == ["text.text"]
    for context in (model(WORDS, images), model(WORDS, {}, features)):
        assert torch.equal(context.tokens, model(WORDS, pictures()).tokens)
        assert context.streams == {}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[UMT5, CLIPVisionModel, Path]:
    text = UMT5(SPEC, **TEXT)
    image = CLIPVisionModel(CLIPVisionConfig(**IMAGE, hidden_act="gelu"))
    text.tower.save_pretrained(tmp_path / "text_encoder")
    image.save_pretrained(tmp_path / "image_encoder")
    return text, image, tmp_path


@pytest.mark.parametrize("parts", [("text", "image"), ("text",), ("image",)])
def test_weights_load_and_what_has_none_is_new(
    saved: tuple[UMT5, CLIPVisionModel, Path], parts: tuple[str, ...]
) -> None:
    text, image, folder = saved
    given = {name: {"weights": str(folder / f"{name}_encoder")} for name in parts}
    model = materialise(lambda: encoder(**given))
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert model.weights == str(folder / f"{parts[0]}_encoder")
    same_text = torch.equal(model.tower["text"].shared.weight, text.tower.shared.weight)
    loaded = image.embeddings.patch_embedding.weight
    same_image = torch.equal(model.tower["image"].embeddings.patch_embedding.weight, loaded)
    assert (same_text, same_image) == ("text" in parts, "image" in parts)
    context = model(WORDS, pictures())
    assert context.tokens.isfinite().all()
    assert context.streams["image"].tokens.std() > 0
    context.streams["image"].tokens.sum().backward()
    assert model.connector["image"].norm1.weight.grad is not None, "the part that is registered"


def test_features_are_encoded_from_a_data_config() -> None:
    from vedit.cli.data_config import Component
    from vedit.cli.data_encode import factory

    parts = {
        "text": {"class_path": "vedit.context.umt5.UMT5", "init_args": TEXT},
        "image": {"class_path": "vedit.context.clip.CLIPImages", "init_args": IMAGE},
    }
    make = factory(Component("vedit.context.decoupled.Decoupled", parts), "encode.context")
    features = make(SPEC).features(WORDS, pictures())
    assert sorted(features) == ["image.image", "text.text"]
    parts["image"] = {**parts["image"], "init_args": {"image_sise": 28}}
    with pytest.raises(ConfigError, match="encode.context.init_args.image.init_args.image_sise"):
        factory(Component("vedit.context.decoupled.Decoupled", parts), "encode.context")


def test_a_missing_folder_is_named(saved: tuple[UMT5, CLIPVisionModel, Path]) -> None:
    folder = saved[2]
    model = encoder({"weights": str(folder / "text_encoder")}, {"weights": str(folder / "image")})
    with pytest.raises(WeightsError, match="no such folder"):
        model.load_weights()


def test_blocks_without_the_stream_are_refused() -> None:
    with pytest.raises(ConfigError, match="init_args.block.* 'image' .*DualCrossBlock"):
        encoder(spec=replace(SPEC, streams=()))


def test_fingerprint_follows_both_encoders() -> None:
    def fingerprint(**changes: Any) -> str:
        torch.manual_seed(0)
        return encoder(**changes).fingerprint()

    changed = {fingerprint(text={"max_tokens": 12}), fingerprint(image={"images": ["source"]})}
    assert len({fingerprint(), *changed}) == 3
    assert fingerprint() == fingerprint()
