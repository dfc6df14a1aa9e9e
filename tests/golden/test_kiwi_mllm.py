"""The context encoder gives the numbers that the published Kiwi-Edit code computed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vedit.context.mllm_queries import MLLMQueries
from vedit.context.prompt import Prompt
from vedit.context.reference_cases import encoder_of, results_of
from vedit.errors import DataError, WeightsError
from vedit.testing.cases import read_cases

FOLDER = Path(__file__).parents[3] / "shared" / "golden" / "kiwi_mllm"
TOLERANCE = 1e-4
pytestmark = pytest.mark.golden
recorded = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the recorded tensors are not at {FOLDER}"
)


@pytest.fixture(scope="module")
def encoder() -> MLLMQueries:
    return encoder_of(FOLDER)


def cases(*modes: str) -> list[Any]:
    """Options and tensors of the cases of these modes, of all without any."""
    found = read_cases(FOLDER) if FOLDER.is_dir() else []
    return [
        pytest.param(
            dict(case.options), dict(case.tensors), id=f"{case.name}-{case.options['mode']}"
        )
        for case in found
        if not modes or case.options["mode"] in modes
    ]


@recorded
@pytest.mark.parametrize(("case", "given"), cases())
def test_hidden_states_and_context_agree(
    encoder: MLLMQueries, case: dict[str, Any], given: dict[str, Tensor]
) -> None:
    found = results_of(encoder, case, given)
    for name in ("last_hidden_state", "context"):
        assert found[name].shape == given[name].shape
        assert (found[name] - given[name]).abs().max() < TOLERANCE, name
    assert given["context"].std() > 100 * TOLERANCE, "the case could not fail"


@recorded
@pytest.mark.parametrize(("case", "given"), cases("video"))
def test_positions_matter(
    encoder: MLLMQueries, case: dict[str, Any], given: dict[str, Tensor]
) -> None:
    longer = {**given, "second_per_grid_ts": given["second_per_grid_ts"] + 1}
    found = results_of(encoder, case, longer)["context"]
    assert (found - given["context"]).abs().max() > TOLERANCE


@recorded
@pytest.mark.parametrize(("case", "given"), cases("ref"))
def test_several_references_read_out_the_last(
    encoder: MLLMQueries, case: dict[str, Any], given: dict[str, Tensor]
) -> None:
    ids = given["input_ids"][0].tolist()
    special = encoder.words.special
    end = len(ids) - ids[::-1].index(special.vision_end)
    start = len(ids) - 1 - ids[::-1].index(special.vision_start)
    twice = torch.tensor([ids[:end] + ids[start:end] + ids[end:]])
    doubled = {
        **given,
        "input_ids": twice,
        "pixel_values": torch.cat([given["pixel_values"], 0.5 * given["pixel_values"]]),
        "image_grid_thw": given["image_grid_thw"].repeat(2, 1),
    }
    found = results_of(encoder, case, doubled)["context"]
    assert found.shape == given["context"].shape
    swapped = {**doubled, "pixel_values": doubled["pixel_values"].flip(0)}
    assert (results_of(encoder, case, swapped)["context"] - found).abs().max() > TOLERANCE


@recorded
@pytest.mark.parametrize(("case", "given"), cases("ref"))
def test_references_may_come_first(
    encoder: MLLMQueries, case: dict[str, Any], given: dict[str, Tensor]
) -> None:
    ids = given["input_ids"][0].tolist()
    special = encoder.words.special
    first = ids.index(special.vision_start)
    start = len(ids) - 1 - ids[::-1].index(special.vision_start)
    end = len(ids) - ids[::-1].index(special.vision_end)
    moved = torch.tensor([ids[:first] + ids[start:end] + ids[first:start] + ids[end:]])
    found = results_of(encoder, case, {**given, "input_ids": moved})["context"]
    # The last picture is the video now: 2 groups of 2x4 merged patches.
    assert found.shape[1] == 16 + case["num_queries"]
    assert found.isfinite().all()


@recorded
@pytest.mark.parametrize(("case", "given"), cases("image"))
def test_pictures_that_do_not_fit_are_one_clear_line(
    encoder: MLLMQueries, case: dict[str, Any], given: dict[str, Tensor]
) -> None:
    more = {**given, "image_grid_thw": torch.tensor([[1, 4, 16]])}
    more["pixel_values"] = given["pixel_values"].repeat(2, 1)
    with pytest.raises(DataError, match="has no room for the 16 tokens"):
        results_of(encoder, case, more)
    with pytest.raises(DataError, match="case mode 'audio': expected one of image, video, ref"):
        results_of(encoder, {**case, "queries": "audio"}, given)


def test_a_folder_without_cases_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cases\.json: cannot be read"):
        encoder_of(tmp_path)


def test_literals_are_those_of_the_released_weights() -> None:
    prompt = Prompt()
    assert prompt.system is not None
    digests = [
        hashlib.sha256(t.encode()).hexdigest() for t in (prompt.system, prompt.reference_suffix)
    ]
    assert digests == [
        "32facc6921b4678807caf4d4ca2c6bcc9da26414cd1d382eb7d0536e6352cc56",
        "9f84afe4a638b3555cda48d626348593e33a4c6875482590edc2f385f7a1d24d",
    ]
