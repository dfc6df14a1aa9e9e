"""Recorded prompts and what a reference implementation made of them, to check an encoder against.

A folder holds ``qwen.safetensors`` (the vision-language model), ``mllm_encoder.safetensors``
(queries and connectors), ``cases.json`` (sizes, token ids, cases) and ``cases.safetensors``
(for case i: ``i.input_ids``, pixel values and grids of a Qwen-VL processor, ``i.context``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.context.connectors import QueryCounts
from vedit.context.mllm_queries import STEMS, MLLMQueries
from vedit.context.prompt import SpecialIds
from vedit.context.shown import Mode
from vedit.errors import DataError, WeightsError
from vedit.weights import tensors

MODES: Mapping[str, Mode] = {"image": "image", "video": "video", "ref": "reference"}


def encoder_of(folder: str | Path) -> MLLMQueries:
    """The encoder of a folder, with its weights.

    Args:
        folder: see above.

    Returns:
        An encoder in evaluation mode.

    Raises:
        WeightsError: if the folder lacks a file, or its weights do not fit.
    """
    described = _description(folder)
    banks = tensors(folder, stems=STEMS)
    try:
        counts = [len(banks[name]) for name in ("image_queries", "video_queries", "ref_queries")]
        ids = described["token_ids"]
        names = ("image", "video", "vision_start", "vision_end", "query")
        special = SpecialIds(*(ids[name] for name in names))
        spec = BackboneSpec(described["dit_dim"], 1, (1, 2, 2), cross_attention=True)
        config = _config(described)
    except KeyError as error:
        raise WeightsError(f"{folder}: cases.json or the queries lack {error}.") from error
    with torch.device("meta"):
        encoder = MLLMQueries(
            spec,
            weights=str(folder),
            config=config,
            queries=str(folder),
            counts=QueryCounts(*counts),
            special_ids=special,
        )
    encoder.load_weights()
    return encoder.eval()


def results_of(
    encoder: MLLMQueries, case: Mapping[str, Any], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the encoder makes of one case, by the names under which it is recorded.

    Args:
        encoder: what `encoder_of` gave.
        case: its options; ``queries`` or else ``mode`` is "image", "video" or "ref".
        given: its tensors: ``input_ids`` (1, L), ``pixel_values`` (P, C) with
            ``image_grid_thw`` (n, 3), ``pixel_values_videos`` with ``video_grid_thw``, and
            ``second_per_grid_ts`` (n,).

    Returns:
        ``last_hidden_state`` (1, L, E), behind the last norm, and ``context`` (1, M + N, D).

    Raises:
        DataError: if the mode is unknown or the pictures do not fit the prompt.
    """
    kind = case.get("queries", case["mode"])
    if kind not in MODES:
        raise DataError(f"case mode {kind!r}: expected one of {', '.join(MODES)}")
    seconds = given.get("second_per_grid_ts")
    with torch.no_grad():
        features = encoder.features_of_ids(
            given["input_ids"],
            MODES[kind],
            images=_pair(given, "pixel_values", "image_grid_thw"),
            videos=_pair(given, "pixel_values_videos", "video_grid_thw"),
            seconds=None if seconds is None else float(seconds[0]),
        )
        (hidden,) = encoder.hidden_states(features, encoder.connector.queries(MODES[kind]))
        return {"last_hidden_state": hidden, "context": encoder.context(features).tokens}


def _pair(given: Mapping[str, Tensor], pixels: str, grids: str) -> tuple[Tensor, Tensor] | None:
    return (given[pixels], given[grids]) if pixels in given else None


def _config(described: Mapping[str, Any]) -> dict[str, Any]:
    text = dict(described["text_config"])
    rope = {"rope_type": "default"}
    rope |= {name: text.pop(name) for name in ("rope_theta", "mrope_section") if name in text}
    return {
        "model_type": described["model"].lower(),
        "text_config": text | {"rope_parameters": rope},
        "vision_config": dict(described["vision_config"]),
    }


def _description(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "cases.json"
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}).") from error
    return described
