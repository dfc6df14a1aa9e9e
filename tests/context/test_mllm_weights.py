"""Released folders of a vision-language model with queries and connectors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.tiny_vlm import COUNTS, KINDS, QWEN25, SPEC, TOKENIZER, WORDS, encoder, sizes
from torch import Tensor
from transformers import AutoModel

from vedit.context.connectors import QueryConnector, QueryCounts
from vedit.context.mllm_queries import MLLMQueries
from vedit.errors import WeightsError
from vedit.model import materialise


@pytest.fixture
def released(tmp_path: Path) -> tuple[MLLMQueries, Path]:
    """A model and its weights in the layout of a released ``mllm_encoder`` folder."""
    torch.manual_seed(1)
    original = encoder()
    folder = tmp_path / "mllm_encoder"
    folder.mkdir()
    save_file(original.connector.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "MLLMEncoder"}))
    named = {f"model.{name}": value for name, value in original.tower.state_dict().items()}
    write_shards(folder, named)
    original.tower.config.save_pretrained(tmp_path / "processor")
    return original, folder


def write_shards(folder: Path, named: dict[str, Tensor]) -> None:
    names = sorted(named)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    for file, part in zip(files, parts, strict=True):
        save_file({name: named[name].contiguous() for name in part}, folder / file)
    places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    index = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index)


def loaded(folder: Path, **changes: Any) -> MLLMQueries:
    arguments: dict[str, Any] = {
        "weights": str(folder),
        "config": str(folder.parent / "processor" / "config.json"),
        "queries": str(folder),
    }
    return materialise(lambda: encoder(**{**arguments, **changes}))


@pytest.mark.parametrize("style", ["model.language_model.", "model."])
def test_a_released_folder_loads_in_either_style(
    released: tuple[MLLMQueries, Path], style: str
) -> None:
    original, folder = released
    if style == "model.":
        named = {
            re.sub(r"^language_model\.", "model.", name): value
            for name, value in original.tower.state_dict().items()
        }
        write_shards(folder, {**named, "lm_head.weight": torch.zeros(2, 2)})
    model = loaded(folder)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    for kind in ("video", "reference"):
        expected = original(WORDS, KINDS[kind]).tokens
        torch.testing.assert_close(model(WORDS, KINDS[kind]).tokens, expected)


def test_a_count_that_is_not_the_checkpoints_names_the_key(
    released: tuple[MLLMQueries, Path],
) -> None:
    counts = QueryCounts(4, 7, 6)
    message = r"video_queries holds 5 queries, but model\.context\.init_args\.counts\.video is 7"
    with pytest.raises(WeightsError, match=message):
        loaded(released[1], counts=counts)


def test_without_queries_to_load_they_are_drawn(released: tuple[MLLMQueries, Path]) -> None:
    model = loaded(released[1], queries=None)
    assert not any(p.is_meta for p in model.parameters())
    assert model.connector.video_queries.std() < 0.05
    assert torch.equal(
        model.tower.language_model.norm.weight, released[0].tower.language_model.norm.weight
    )


def test_queries_load_into_a_random_tower(released: tuple[MLLMQueries, Path]) -> None:
    model = MLLMQueries(
        SPEC,
        config=sizes(QWEN25),
        tokenizer=TOKENIZER,
        queries=str(released[1]),
        counts=COUNTS,
    )
    expected = released[0].connector.video_queries
    assert torch.equal(model.connector.video_queries, expected)


def test_weights_that_do_not_fit_are_one_clear_line(released: tuple[MLLMQueries, Path]) -> None:
    folder = released[1]
    with pytest.raises(WeightsError, match="describes no vision-language model"):
        loaded(folder, config=None)
    smaller = sizes(QWEN25)
    smaller["text_config"]["intermediate_size"] = 40
    with pytest.raises(WeightsError, match="6 of another shape: language_model.layers.0.mlp"):
        loaded(folder, config=smaller)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="expected diffusion_pytorch_model.safetensors or"):
        loaded(folder)


def test_sizes_that_no_shape_shows_are_compared(
    released: tuple[MLLMQueries, Path], tmp_path: Path
) -> None:
    released[0].tower.save_pretrained(tmp_path / "vlm")
    arguments: dict[str, Any] = {"weights": str(tmp_path / "vlm"), "queries": None}
    loaded(released[1], config=sizes(QWEN25), **arguments)
    wrong = sizes(QWEN25)
    wrong["text_config"]["num_attention_heads"] = 4
    wrong["text_config"]["rope_parameters"]["rope_theta"] = 5e5
    wrong["vision_config"]["fullatt_block_indexes"] = [0]
    message = (
        r"text_config\.num_attention_heads is 4 but the weights have 2; .*rope_theta is 500000.0 "
        r"but the weights have 1000000.0; .*fullatt_block_indexes is \[0\] but .* \[1\]"
    )
    with pytest.raises(WeightsError, match=message):
        loaded(released[1], config=wrong, **arguments)


def test_bfloat16_holds_the_tower_alone(released: tuple[MLLMQueries, Path]) -> None:
    model = loaded(released[1], dtype="bfloat16")
    assert {p.dtype for p in model.tower.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.connector.parameters()} == {torch.float32}
    tokens = model(WORDS, KINDS["reference"]).tokens
    assert tokens.dtype == torch.float32
    expected = released[0](WORDS, KINDS["reference"]).tokens
    assert (tokens - expected).abs().mean() < 0.1 * expected.std()


def test_bfloat16_leaves_rotary_frequencies_whole(
    released: tuple[MLLMQueries, Path], tmp_path: Path
) -> None:
    released[0].tower.save_pretrained(tmp_path / "vlm")
    theirs = AutoModel.from_pretrained(tmp_path / "vlm", dtype=torch.bfloat16)
    frequencies = {n: b for n, b in theirs.named_buffers() if n.endswith(".inv_freq")}
    assert {b.dtype for b in frequencies.values()} == {torch.float32}
    for model in (loaded(released[1], dtype="bfloat16"), encoder(dtype="bfloat16")):
        own = dict(model.tower.named_buffers())
        for name, frequency in frequencies.items():
            assert torch.equal(own[name], frequency), name


def test_on_meta_the_released_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        connector = QueryConnector(2048, 3072, QueryCounts())
    size = sum(p.numel() for p in connector.connector.parameters())
    assert size == pytest.approx(15.73e6, rel=1e-3)
    assert connector.ref_queries.shape == (768, 2048)
