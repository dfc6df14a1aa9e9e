"""The shipped nano text encoder tells edits apart, and its tokenizer keeps what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, T5TokenizerFast

from vedit.backbones.base import BackboneSpec
from vedit.context.umt5 import UMT5
from vedit.engine.experts import experts
from vedit.engine.experts.apply import local_instruction
from vedit.model import materialise

NANO = Path(__file__).parents[2] / "nano"
SPEC = BackboneSpec(width=256, latent_channels=32, patch=(1, 2, 2), cross_attention=True)


@pytest.fixture(scope="module")
def encoder() -> UMT5:
    return materialise(
        lambda: UMT5(
            SPEC,
            weights=str(NANO / "text_encoder"),
            tokenizer=str(NANO / "tokenizer"),
            max_tokens=64,
            d_model=128,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            d_kv=32,
            vocab_size=1000,
        )
    ).requires_grad_(False)


def test_instructions_of_different_edits_are_distinct(encoder: UMT5) -> None:
    names = [name for name, expert in experts().items() for _ in expert.instructions]
    texts = [text for expert in experts().values() for text in expert.instructions]
    features = encoder.features(texts)["text"]
    length = (features != 0).any(dim=-1).sum(dim=1, keepdim=True)
    means = torch.nn.functional.normalize(features.sum(dim=1) / length, dim=-1)
    same = torch.tensor([[a == b for b in names] for a in names])
    assert (means @ means.T)[~same].max() < 0.999


def test_features_are_of_ordinary_size(encoder: UMT5) -> None:
    features = encoder.features(["Make the video black and white"])["text"]
    assert features.isfinite().all()
    assert 0.05 < features.std() < 20


def test_every_instruction_survives_the_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO / "tokenizer")
    for expert in experts().values():
        for text in (*expert.instructions, local_instruction(expert, 0)):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()
            assert len(ids) <= 64


def test_the_tokenizer_keeps_the_conventions_of_t5() -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO / "tokenizer")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert len(tokenizer) == 1000
    as_t5 = T5TokenizerFast.from_pretrained(NANO / "tokenizer", extra_ids=0)
    assert as_t5("make it blue").input_ids == tokenizer("make it blue").input_ids


def test_the_folder_stays_small() -> None:
    assert (NANO / "text_encoder" / "model.safetensors").stat().st_size < 1_500_000
