"""Vision-language models of a few thousand parameters, and encoders that read them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vedit.backbones.base import BackboneSpec
from vedit.context.connectors import QueryCounts
from vedit.context.frames import PixelBudget, Views
from vedit.context.mllm_queries import MLLMQueries
from vedit.references import reference_name

TOKENIZER = str(Path(__file__).parents[1] / "nano" / "tokenizer")
SPEC = BackboneSpec(width=24, latent_channels=4, patch=(1, 2, 2), cross_attention=True)
COUNTS = QueryCounts(image=4, video=5, reference=6)
WORDS = ["Make it blue", "Turn the whole video upside down, please", "Blur"]

VIEWS = Views(
    max_frames=4,
    video=PixelBudget(3136, 4 * 3136),
    image=PixelBudget(3136, 4 * 3136),
    reference=PixelBudget(3136, 2 * 3136),
)

_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1007,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "depth": 2,
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}

QWEN25: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "text_config": {**_TEXT, "num_hidden_layers": 2, "rope_parameters": _ROPE},
    "vision_config": {**_VISION, "fullatt_block_indexes": [1]},
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "text_config": {
        **_TEXT,
        "head_dim": 16,
        "num_hidden_layers": 3,
        "rope_parameters": {**_ROPE, "mrope_interleaved": True},
    },
    "vision_config": {
        **_VISION,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    },
}


def sizes(kind: dict[str, Any]) -> dict[str, Any]:
    """A configuration that a test may change."""
    return copy.deepcopy(kind)


def encoder(kind: dict[str, Any] = QWEN25, **changes: Any) -> MLLMQueries:
    """A random encoder whose connectors let something through."""
    arguments: dict[str, Any] = {
        "config": sizes(kind),
        "tokenizer": TOKENIZER,
        "counts": COUNTS,
        "views": VIEWS,
    }
    return awake(MLLMQueries(**{"spec": SPEC, **arguments, **changes}))


def awake(model: MLLMQueries) -> MLLMQueries:
    """Give the connectors' last layers weights."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (model.connector.connector, model.connector.ref_connector):
            last = part[2].weight
            if not last.is_meta:
                last.copy_(torch.randn(last.shape, generator=generator))
    return model


def pictures(count: int = 3, frames: int | None = 9, references: int = 0) -> dict[str, Tensor]:
    """A source of `frames` frames (None: no source) and references, all of 64x112 pixels."""
    generator = torch.Generator().manual_seed(4)
    found = {}
    if frames is not None:
        found["source"] = torch.rand(count, 3, frames, 64, 112, generator=generator) * 2 - 1
    if references:
        shape = (count, references, 3, 1, 64, 112)
        images = torch.rand(shape, generator=generator) * 2 - 1
        found |= {reference_name(i): image for i, image in enumerate(images.unbind(1))}
    return found


KINDS = {
    "image": pictures(3, 1),
    "video": pictures(3, 9),
    "reference": pictures(3, 5, 2),
    "words alone": pictures(3, None),
}
