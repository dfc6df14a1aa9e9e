"""The text encoder: cleaning, padding, zeroing, storage of features, loading, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vedit.backbones.base import BackboneSpec
from vedit.context.umt5 import UMT5, clean_prompt
from vedit.errors import ConfigError, WeightsError
from vedit.model import materialise

TOKENIZER = str(Path(__file__).parents[2] / "nano" / "tokenizer")
SPEC = BackboneSpec(width=24, latent_channels=4, patch=(1, 2, 2), cross_attention=True)
SIZES: dict[str, Any] = {
    "d_model": 16,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "d_kv": 8,
    "vocab_size": 1000,
    "max_tokens": 24,
}
WORDS = ["Make the video black and white", "Blur", "Turn the whole clip upside down, please"]


def encoder(**changes: Any) -> UMT5:
    return UMT5(SPEC, **{"tokenizer": TOKENIZER, **SIZES, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[UMT5, Path]:
    original = encoder()
    original.tower.save_pretrained(tmp_path)
    return original, tmp_path


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  make it  blue\n", "make it blue"),
        ("a &amp;amp; b", "a & b"),
        ("tabs\tand\u00a0spaces", "tabs and spaces"),
        ("", ""),
    ],
)
def test_prompts_are_cleaned(raw: str, clean: str) -> None:
    assert clean_prompt(raw) == clean


def test_features_are_zero_beyond_the_sentence() -> None:
    model = encoder()
    text = model.features(WORDS)["text"]
    lengths = [len(ids) for ids in model._load_tokenizer()(WORDS).input_ids]
    assert text.shape == (3, max(lengths), 16)
    for row, length in zip(text, lengths, strict=True):
        assert not row[length:].any()
        assert row[:length].abs().amax(dim=1).min() > 0


def test_a_sentence_does_not_depend_on_its_batch() -> None:
    model = encoder()
    together = model.features(WORDS)["text"]
    alone = model.features(WORDS[1:2])["text"]
    torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_context_is_padded_projected_and_unmasked() -> None:
    model = encoder()
    context = model(WORDS, {})
    assert context.valid is None
    assert context.tokens.shape == (3, 24, 24)
    padding = model.connector(torch.zeros(1, 16))
    torch.testing.assert_close(context.tokens[1, -1:], padding)


def test_stored_features_give_the_same_context() -> None:
    model = encoder().requires_grad_(False)
    features = model.features(WORDS)
    trimmed = {"text": features["text"][1:2, : model.features(WORDS[1:2])["text"].shape[1]]}
    assert torch.equal(model(WORDS, {}, features).tokens, model(WORDS, {}).tokens)
    torch.testing.assert_close(
        model(WORDS[1:2], {}, trimmed).tokens, model(WORDS, {}).tokens[1:2], atol=1e-5, rtol=0
    )


def test_stored_features_are_refused_while_the_tower_trains() -> None:
    model = encoder()
    model.tower.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"^model\.finetune\.tower: .*set data\.latents to never"):
        model(WORDS, {}, model.features(WORDS))


def test_long_instructions_are_cut() -> None:
    assert encoder().features(["again " * 200])["text"].shape[1] == 24


def test_features_longer_than_the_padding_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens is 24, but stored features have 30"):
        encoder().context({"text": torch.zeros(1, 30, 16)})


def test_null_is_the_empty_instruction() -> None:
    model = encoder().requires_grad_(False)
    expected = model(["", ""], {}).tokens
    torch.testing.assert_close(model.null(2).tokens, expected, atol=1e-5, rtol=0)


def test_null_runs_a_frozen_tower_once() -> None:
    model = encoder()
    model.tower.requires_grad_(False)
    calls = []
    model.tower.register_forward_hook(lambda *_: calls.append(1))
    tokens = model.null(1).tokens
    model.null(3)
    assert len(calls) == 1
    assert tokens.requires_grad, "the connector still trains"
    model.tower.requires_grad_(True)
    model.null(1)
    model.null(1)
    assert len(calls) == 3, "a tower that trains is run again"


def test_gradients_reach_the_tower_only_if_it_trains() -> None:
    model = encoder()
    model.tower.requires_grad_(False)
    assert not model.features(WORDS)["text"].requires_grad
    model.tower.requires_grad_(True)
    model(WORDS, {}).tokens.sum().backward()
    assert model.tower.shared.weight.grad.abs().sum() > 0


def test_training_mode_does_not_change_features() -> None:
    model = encoder()
    assert torch.equal(model.train().features(WORDS)["text"], model.eval().features(WORDS)["text"])


def test_weights_and_projection_load_strictly(saved: tuple[UMT5, Path]) -> None:
    original, folder = saved
    model = materialise(lambda: encoder(weights=str(folder)))
    expected, got = original.features(WORDS)["text"], model.features(WORDS)["text"]
    assert torch.equal(got, expected)
    assert not any(p.is_meta for p in model.parameters()), "the connector is initialised"
    assert model.connector.linear_1.weight.std() > 0


def test_no_weights_are_read_before_they_are_loaded(saved: tuple[UMT5, Path]) -> None:
    model = encoder(weights=str(saved[1] / "not there"))
    assert model.tower.shared.weight.is_meta
    with pytest.raises(WeightsError, match="no such folder"):
        model.load_weights()


def test_on_meta_it_has_shapes_only() -> None:
    with torch.device("meta"):
        model = encoder(projection="no/such")
    assert all(p.is_meta for p in model.parameters())
    assert model.connector.linear_2.weight.shape == (24, 24)


def test_the_xxl_encoder_fits_its_published_size() -> None:
    with torch.device("meta"):
        model = UMT5(SPEC)
    size = sum(p.numel() for p in model.tower.parameters())
    assert size == 5_680_910_336


def test_sizes_that_disagree_name_the_key(saved: tuple[UMT5, Path]) -> None:
    with pytest.raises(WeightsError, match="model.context.init_args.num_layers is 3 but.* 2"):
        encoder(weights=str(saved[1]), num_layers=3).load_weights()


def test_bfloat16_halves_the_tower_alone(saved: tuple[UMT5, Path]) -> None:
    model = encoder(weights=str(saved[1]), dtype="bfloat16")
    model.load_weights()
    assert {p.dtype for p in model.tower.parameters()} == {torch.bfloat16}
    context = model(WORDS, {}).tokens
    assert context.dtype == torch.float32
    reference = saved[0].connector(saved[0].features(WORDS)["text"])
    assert context.shape[0] == reference.shape[0]


def test_a_missing_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.context.init_args.tokenizer is null"):
        encoder(tokenizer=None).features(WORDS)
    with pytest.raises(WeightsError, match="holds no tokenizer, expected tokenizer.json"):
        encoder(tokenizer=str(tmp_path)).features(WORDS)
    with pytest.raises(WeightsError, match="no such folder"):
        encoder(tokenizer=str(tmp_path / "tokeniser")).features(WORDS)


def test_a_tokenizer_too_large_for_the_embeddings_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 1000 tokens, but vocab_size is 500"):
        encoder(vocab_size=500).features(WORDS)


def test_fingerprint_follows_weights_and_settings(saved: tuple[UMT5, Path]) -> None:
    prints = {
        encoder(weights=str(saved[1])).fingerprint(),
        encoder(weights=str(saved[1]), max_tokens=12).fingerprint(),
        encoder(weights=str(saved[1]), dtype="bfloat16").fingerprint(),
        encoder(weights=str(saved[1]), tokenizer=None).fingerprint(),
        encoder().fingerprint(),
    }
    assert len(prints) == 5
    assert encoder(weights=str(saved[1])).fingerprint() in prints
