"""Learnable queries: read-out, batches, gradients, finetuning, storage, loading, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny_vlm import (
    COUNTS,
    KINDS,
    QWEN3,
    QWEN25,
    SPEC,
    TOKENIZER,
    WORDS,
    awake,
    encoder,
    sizes,
)
from torch import Tensor

from vedit.context.mllm_queries import MLLMQueries
from vedit.finetune.frozen import Frozen
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA, merge

ATTENTION = r"language_model\..*\.[qkvo]_proj"
PICTURE = 8  # tokens of a reference of 64x112, shown as 56x112


def rows(images: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: image[i : i + 1] for name, image in images.items()}


# --- what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "length"),
    [("image", 4), ("video", 5), ("reference", 6 + PICTURE), ("words alone", 5)],
)
def test_each_kind_of_prompt_has_its_queries(kind: str, length: int) -> None:
    context = encoder()(WORDS, KINDS[kind])
    assert context.tokens.shape == (3, length, 24)
    assert context.valid is None
    assert context.tokens.std() > 0.1


@pytest.mark.parametrize("tower", [QWEN25, QWEN3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_samples_one_by_one(tower: dict[str, Any], kind: str) -> None:
    model = encoder(tower)
    together = model(WORDS, KINDS[kind]).tokens
    for i, text in enumerate(WORDS):
        alone = model([text], rows(KINDS[kind], i)).tokens
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("video", "source"), ("reference", "reference")])
def test_words_and_pictures_matter(kind: str, name: str) -> None:
    model = encoder()
    plain = model(WORDS, KINDS[kind]).tokens
    assert not torch.allclose(plain, model(WORDS[::-1], KINDS[kind]).tokens, atol=1e-3)
    other = {**KINDS[kind], name: -KINDS[kind][name]}
    assert not torch.allclose(plain, model(WORDS, other).tokens, atol=1e-3)


def test_only_the_references_asked_for_are_read() -> None:
    first, every = encoder(), encoder(max_references=None, reference_readout="all")
    every.load_state_dict(first.state_dict())
    images = KINDS["reference"]
    one = {name: image for name, image in images.items() if name != "reference.1"}
    assert torch.equal(first(WORDS, images).tokens, first(WORDS, one).tokens)
    assert every(WORDS, images).tokens.shape == (3, 6 + 2 * PICTURE, 24)


def test_readouts_differ_by_the_end_of_the_turn() -> None:
    last, exact = encoder(), encoder(readout="queries")
    exact.load_state_dict(last.state_dict())
    text = last.words.load().decode(last.features(WORDS[:1], {})["ids"][0])
    behind = len(last.words.ids(text[text.rindex("<|object_ref_start|>") + 20 :]))
    found, expected = last(WORDS, {}).tokens, exact(WORDS, {}).tokens
    assert 0 < behind < 5
    torch.testing.assert_close(found[:, : 5 - behind], expected[:, behind:])
    assert not torch.allclose(found[:, -behind:], expected[:, :behind], atol=1e-3)


def test_a_fresh_connector_gives_zeros_that_can_be_learned() -> None:
    torch.manual_seed(0)
    model = MLLMQueries(SPEC, config=sizes(QWEN25), tokenizer=TOKENIZER, counts=COUNTS)
    tokens = model.connector(torch.randn(1, 5, 32), None, "video")
    assert not tokens.any()
    (tokens - 1).square().sum().backward()
    assert model.connector.connector[2].weight.grad.abs().sum() > 0
    assert model.connector.image_queries.std().item() == pytest.approx(0.02, rel=0.3)


def test_null_is_the_empty_instruction_without_images() -> None:
    model = encoder()
    torch.testing.assert_close(model.null(2).tokens, model(["", ""], {}).tokens)
    assert encoder(null_mode="image").null(2).tokens.shape == (2, 4, 24)


def test_random_weights_follow_from_the_seed() -> None:
    torch.manual_seed(7)
    first = encoder()
    torch.manual_seed(7)
    assert first.fingerprint() == encoder().fingerprint()


# --- training --------------------------------------------------------------------------------


def trained(model: MLLMQueries, kind: str) -> dict[str, Tensor | None]:
    """Gradients of one step, by the names of what trains."""
    model(WORDS, KINDS[kind]).tokens.square().sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["image", "video", "reference"])
@pytest.mark.parametrize("tower", [Frozen(), LoRA(2, targets=ATTENTION), Full()])
def test_everything_that_trains_has_a_gradient(tower: Any, kind: str) -> None:
    model = encoder()
    model.tower = tower.apply(model.tower)
    model.connector = Full().apply(model.connector)
    gradients = trained(model, kind)
    assert not [name for name, gradient in gradients.items() if gradient is None]
    banks = {"image": "image_queries", "video": "video_queries", "reference": "ref_queries"}
    for mode, bank in banks.items():
        moved = gradients[f"connector.{bank}"].abs().sum() > 0
        assert moved == (mode == kind), bank
    if isinstance(tower, LoRA):
        assert len([name for name in gradients if ".lora_" in name]) == 2 * 4 * 2
    if isinstance(tower, Full):
        assert gradients["tower.visual.patch_embed.proj.weight"].abs().sum() > 0


def test_a_frozen_encoder_records_no_graph() -> None:
    model = encoder()
    Frozen().apply(model)
    assert not model(WORDS, KINDS["video"]).tokens.requires_grad
    Full().apply(model.connector)
    features = model.features(WORDS, KINDS["video"])
    assert not features["vision"].requires_grad
    assert model.context(features).tokens.requires_grad


def test_adapters_learn_and_merge() -> None:
    model = encoder()
    lora = LoRA(2, targets=ATTENTION)
    Frozen().apply(model)
    plain = model(WORDS, KINDS["video"]).tokens
    lora.apply(model.tower)
    assert torch.equal(model(WORDS, KINDS["video"]).tokens, plain)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(WORDS, KINDS["video"]).tokens.square().mean().backward()
        optimizer.step()
    changed = model(WORDS, KINDS["video"]).tokens
    assert not torch.allclose(changed, plain, atol=1e-4)
    saved = lora.saved(model.tower)
    assert all(name.startswith("language_model.") for name in saved)
    merge(model.tower)
    torch.testing.assert_close(model(WORDS, KINDS["video"]).tokens, changed, atol=1e-4, rtol=1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = encoder(gradient_checkpointing=checkpointing)
        gradients.append(trained(model, "video")["connector.video_queries"])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_awake_connectors_are_needed_for_these_tests() -> None:
    model = encoder()
    model.connector.reset_parameters()
    assert not model(WORDS, KINDS["video"]).tokens.any()
    assert awake(model)(WORDS, KINDS["video"]).tokens.any()
