"""Features of prompts: what they depend on, and storing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.samples import sample, write_folder
from tests.tiny_vlm import KINDS, SPEC, TOKENIZER, WORDS, encoder
from torch import Tensor

from vedit.context.connectors import QueryCounts
from vedit.context.frames import Views
from vedit.context.prompt import Prompt
from vedit.context.umt5 import UMT5
from vedit.data.cache import CacheReader
from vedit.data.collate import EditSample, collate
from vedit.data.encode import _trimmed, encode_shards
from vedit.data.index import read_index
from vedit.data.media import decode_image, decode_member
from vedit.data.shards import ShardReader
from vedit.errors import ConfigError, DataError
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA

ATTENTION = r"language_model\..*\.[qkvo]_proj"


def test_stored_features_give_the_same_context(tmp_path: Path) -> None:
    write_folder(tmp_path, [sample(n, frames=5, reference=n > 1) for n in range(4)])
    torch.manual_seed(0)
    model = encoder().requires_grad_(False)
    encode_shards(tmp_path, None, model, batch_size=2, progress=lambda _: None)
    index = read_index(tmp_path)
    cache = CacheReader(tmp_path, "features", model.fingerprint())
    assert cache.status(index.entries, model.reads_images).complete
    for chosen in (index.entries[:2], index.entries[2:]):
        texts = [entry.record.instructions[i] for i, entry in enumerate(chosen)]
        stored = [
            EditSample(e.key, t, features=cache.features(e, t, model.reads_images))
            for e, t in zip(chosen, texts, strict=True)
        ]
        found = model(texts, {}, collate(stored).features).tokens
        expected = model(texts, _decoded(tmp_path, chosen)).tokens
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_features_of_another_kind_of_encoder_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, [sample(0, frames=5)])
    text = UMT5(
        SPEC,
        tokenizer=TOKENIZER,
        d_model=8,
        d_ff=8,
        num_layers=1,
        num_heads=1,
        d_kv=8,
        vocab_size=1000,
    )
    encode_shards(tmp_path, None, text, progress=lambda _: None)
    model, entries = encoder(), read_index(tmp_path).entries
    cache = CacheReader(tmp_path, "features", model.fingerprint())
    assert not cache.status(entries, model.reads_images).complete
    with pytest.raises(DataError, match="stale"):
        cache.features(entries[0], entries[0].record.instruction, model.reads_images)
    encode_shards(tmp_path, None, model, progress=lambda _: None)
    model.views = Views(max_frames=2)
    with pytest.raises(DataError, match="stale"):
        CacheReader(tmp_path, "features", model.fingerprint()).status(entries, model.reads_images)


def test_prompts_without_pictures_can_be_stored(tmp_path: Path) -> None:
    model = encoder()
    features = {n: v[0] for n, v in model.features(["Make it blue"], {}).items()}
    assert _trimmed(features["vision"]).shape == (0, 32)


def _decoded(folder: Path, entries: Any) -> dict[str, Tensor]:
    reader = ShardReader(folder)
    names = {m.partition(".")[0]: m for m in entries[0].members}
    images = {"source": torch.stack([decode_member(reader, e, names["source"]) for e in entries])}
    if "reference" in names:
        found = [decode_image(reader, e, names["reference"]) for e in entries]
        images["reference"] = torch.stack(found).unsqueeze(2)
    return images


def test_features_do_not_depend_on_what_trains() -> None:
    model = encoder()
    before, print_before = model.features(WORDS, KINDS["video"]), model.fingerprint()
    LoRA(2, targets=ATTENTION).apply(model.tower)
    for parameter in model.tower.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    after = model.features(WORDS, KINDS["video"])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.fingerprint() == print_before


def test_fingerprints_follow_what_features_depend_on() -> None:
    def digest(**changes: Any) -> str:
        torch.manual_seed(0)
        return encoder(**changes).fingerprint()

    assert digest() == digest(readout="queries")
    changes: list[dict[str, Any]] = [
        {},
        {"prompt": Prompt(system=None)},
        {"views": Views(max_frames=2)},
        {"counts": QueryCounts(1, 2, 3)},
        {"max_references": None},
        {"dtype": "bfloat16"},
    ]
    assert len({digest(**change) for change in changes}) == len(changes)


def test_a_vision_tower_that_trains_refuses_stored_features() -> None:
    model = encoder()
    features = model.features(WORDS, KINDS["video"])
    Full().apply(model.tower)
    with pytest.raises(ConfigError, match=r"model\.finetune\.tower: trains what the stored"):
        model(WORDS, {}, features)


def test_kinds_do_not_share_a_batch() -> None:
    model = encoder()
    features = model.features(WORDS, KINDS["video"])
    with pytest.raises(DataError, match="a batch of image and video prompts"):
        model.context({**features, "mode": torch.tensor([0, 1, 1])})
