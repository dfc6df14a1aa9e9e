"""The three nano systems, tiny, with global batches: what parallel and single runs both compute."""

from __future__ import annotations

from typing import Any

import torch
from tests.configs.shrunk import CONFIGS, shrink
from torch import Tensor, nn

from vedit.batch import EditBatch
from vedit.cli.experiment import check, read, system
from vedit.cli.yaml_file import Tree
from vedit.flow.path import interpolate, velocity
from vedit.system import EditSystem

SYSTEMS = ("easyv2v", "mive", "kiwi_edit")
ADAPTERS = {
    "class_path": "vedit.finetune.lora.LoRA",
    "init_args": {"rank": 2, "targets": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj"]},
}
FINETUNE = {"lora": ADAPTERS, "full": {"class_path": "vedit.finetune.full.Full"}}
WORDS = ("Make it black and white", "Turn the colours into their negative", "Blur it", "Paint it")
SAMPLES = 2


def configured(name: str, finetune: str, **backbone: Any) -> Tree:
    """The checked configuration of a nano system with tiny parts and four heads.

    Args:
        name: of the system.
        finetune: "lora" or "full", of the backbone.
        **backbone: further arguments of it.
    """
    composed = read([str(CONFIGS / "experiments" / "nano" / f"{name}.yaml")])
    model = shrink(composed.tree["model"])
    model["init_from"] = None
    model["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    model["lr_scheduler"] = None
    model["finetune"]["backbone"] = FINETUNE[finetune]
    model["backbone"]["init_args"] |= {"num_attention_heads": 4, **backbone}
    composed.tree["model"] = model
    return check(composed, trainer=False)


def build(tree: Tree, dtype: torch.dtype) -> EditSystem:
    """The system, every weight drawn anew so that no zero hides a gradient."""
    made = system(tree)
    made.build()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.1 * noise).to(parameter))
    if dtype == torch.float64 and made.context is not None:
        _widen_norms(made.context)
    return made.to(dtype).train()


def _widen_norms(module: nn.Module) -> None:
    """Let norms of transformers compute in their own type, where they insist on float32."""
    for name, child in module.named_children():
        if type(child).__name__.endswith("RMSNorm") and "transformers" in type(child).__module__:
            wide = nn.RMSNorm(child.weight.shape, child.variance_epsilon)
            wide.weight = child.weight
            setattr(module, name, wide)
        else:
            _widen_norms(child)


def edit_batch(number: int) -> EditBatch:
    """Batch `number`, two samples that are a pure function of it; 27 tokens a video."""
    generator = torch.Generator().manual_seed(number)

    def draw(*shape: int) -> Tensor:
        return torch.rand(SAMPLES, *shape, generator=generator) * 2 - 1

    latents = {name: draw(4, 3, 6, 6) for name in ("source", "target", "mask")}
    latents["reference"] = draw(4, 1, 6, 6)
    videos, reference = {"source": draw(3, 5, 56, 84)}, draw(1, 3, 56, 84)
    return EditBatch(
        instruction=tuple(WORDS[(number + i) % len(WORDS)] for i in range(SAMPLES)),
        keys=tuple(f"{number}-{i}" for i in range(SAMPLES)),
        videos=videos,
        reference=reference,
        shown=tuple(row.unbind() for row in reference),
        latents=latents,
    )


class LossOf(nn.Module):
    """The flow-matching loss of a system on a numbered batch, in the precision of its weights.

    Args:
        system: built.
    """

    def __init__(self, system: EditSystem) -> None:
        super().__init__()
        self.system = system

    def forward(self, number: int) -> Tensor:
        batch = edit_batch(number)
        generator = torch.Generator().manual_seed(100 + number)
        clean = batch.latents["target"]
        sigma = torch.rand(SAMPLES, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        conditions = self.system.conditions(batch)
        predicted = self.system(interpolate(clean, noise, sigma), sigma, conditions)
        return (predicted - velocity(clean, noise)).square().mean()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """By name, whole, of what has one."""
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}
