"""What `benchmarks/gpu.py` measures: published systems at published sizes, with random weights.

A workload is an experiment of `configs/experiments`, a size of video, and what is left out of it:
latents and the features of frozen encoders come from memory, as they come from a cache in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.batch import EditBatch
from vedit.cli.experiment import check, read, system
from vedit.context.base import ContextEncoder
from vedit.system import EditSystem
from vedit.tokens import Context

CONFIGS = Path(__file__).parents[1] / "configs/experiments"
FROZEN = {"class_path": "vedit.finetune.frozen.Frozen"}
Overrides = Mapping[str, Any]
BASE: Overrides = {
    "model.finetune.backbone.init_args.base": {"class_path": "vedit.finetune.storage.BFloat16"}
}
LORA: Overrides = {
    "model.finetune.backbone": {
        "class_path": "vedit.finetune.lora.LoRA",
        "init_args": {
            "rank": 256,
            "targets": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"],
            "base": {"class_path": "vedit.finetune.storage.BFloat16"},
        },
    }
}


class StoredContext(ContextEncoder):
    """A context whose tokens come from storage: a frozen encoder leaves nothing else to a step.

    Args:
        spec: sizes of the backbone.
        tokens: L.
    """

    def __init__(self, spec: BackboneSpec, tokens: int = 512) -> None:
        super().__init__()
        self.tower, self.connector, self.weights = nn.Module(), nn.Identity(), None
        self.register_buffer("empty", torch.zeros(1, tokens, spec.width))

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Tokens at random, the same for every sample."""
        return {"tokens": torch.randn_like(self.empty).expand(len(instruction), -1, -1)}

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """The stored tokens."""
        return Context(features["tokens"])

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """Their number."""
        return {"": self.empty.shape[1]}

    def null(self, batch: int) -> Context:
        """Zeros."""
        return Context(self.empty.expand(batch, -1, -1))

    def fingerprint(self) -> str:
        """One for all: nothing is stored."""
        return "stored"

    def load_weights(self) -> None:
        """Load nothing."""


@dataclass(frozen=True)
class Workload:
    """One system at one size.

    Attributes:
        name: for tables.
        experiment: file in `configs/experiments`.
        video: frames, height and width.
        context: tokens of the context.
        references: reference images in the batch.
        overrides: on the experiment.
    """

    name: str
    experiment: str
    video: tuple[int, int, int]
    context: int = 512
    references: int = 0
    overrides: Overrides = field(default_factory=dict)

    def system(self, variant: Overrides, tiny: bool = False) -> EditSystem:
        """The system, not yet built.

        Args:
            variant: overrides on top of the workload's own.
            tiny: whether to shrink the backbone to a size that any CPU steps.
        """
        given = {**WITHOUT_WEIGHTS, **self.overrides, **(TINY if tiny else {}), **variant}
        given["model.context.init_args.tokens"] = 16 if tiny else self.context
        composed = read([str(CONFIGS / f"{self.experiment}.yaml")], list(given.items()))
        return system(check(composed, trainer=False))

    def size(self, tiny: bool = False) -> tuple[int, int, int]:
        """Frames, height and width."""
        return (9, 64, 64) if tiny else self.video

    def batch(self, built: EditSystem, tiny: bool = False) -> EditBatch:
        """A sample whose latents and features are stored."""
        assert built.codec is not None
        grid = built.codec.latent_grid(*self.size(tiny))
        channels, generator = built.codec.latent_channels, torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        latents = {name: drawn(1, channels, *grid) for name in ("target", "source")}
        if self.references:
            latents["reference"] = drawn(1, channels, self.references, *grid[1:])
        assert built.context is not None
        empty = built.context.get_buffer("empty")
        features = {"tokens": drawn(1, *empty.shape[1:])}
        return EditBatch(("make it so",), ("sample",), latents=latents, features=features)


WITHOUT_WEIGHTS: Overrides = {
    "model.backbone.init_args.weights": None,
    # Latents are stored: the codec only has to know their shape.
    "model.codec.init_args.weights": None,
    "model.codec.init_args.config.base_dim": 8,
    "model.context": {"class_path": "gpu_workloads.StoredContext", "init_args": {}},
    "model.finetune.tower": FROZEN,
    "model.finetune.connector": FROZEN,
    "model.dropout": {},
    "model.init_from": None,
    "data": {},
}
TINY: Overrides = {
    "model.codec.init_args.config.base_dim": 8,
    "model.codec.init_args.config.decoder_base_dim": None,
    "model.backbone.init_args.num_layers": 2,
    "model.backbone.init_args.num_attention_heads": 2,
    "model.backbone.init_args.attention_head_dim": 16,
    "model.backbone.init_args.ffn_dim": 64,
}
