"""What a system holds, whatever the number of devices: found from its parts and its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from vedit.backbones.activations import BlockSizes, Reads, reads_of
from vedit.callbacks.parameters import ffn_width
from vedit.finetune.stored_linear import StoredLinear
from vedit.parallel.optimizer_state import parts_of


@dataclass(frozen=True)
class Holding:
    """What a system holds, in bytes, and the sizes of one sample.

    Attributes:
        trained: weights that train.
        frozen: weights of the model that do not.
        stored: those of them in fewer bits, which every device holds whole.
        encoders: of the codec and the frozen tower of the context encoder.
        block: of the largest block, as it is gathered to compute with.
        states: numbers that the optimizer keeps for each one that trains.
        temporaries: the same for a moment in a step.
        sizes: of a block, with the tokens of one sample.
        reads: what training a block needs.
        outside: of one sample outside blocks, a function of the ranks that share its tokens.
        average: of the moving average, where it lies on the device.
        widened: of the weights as they enter it, for a moment, where they have fewer bits.
    """

    trained: float
    frozen: float
    stored: float
    encoders: float
    block: float
    states: float
    temporaries: float
    sizes: BlockSizes
    reads: Reads
    outside: tuple[float, float]
    average: float = 0.0
    widened: float = 0.0


def holding_of(
    system: Any, tokens: int, context: int, latents: Sequence[int], precision: str
) -> Holding:
    """What a system holds.

    Args:
        system: built, on the meta device or not, its finetuning plan applied.
        tokens: N of one sample.
        context: L of one sample, 0 without cross-attention.
        latents: (C, t, h, w) of one sample.
        precision: of the trainer, such as "bf16-mixed".

    Returns:
        Bytes and sizes for `estimate`.
    """
    backbone = system.model.backbone
    number = 2 if "16" in precision else 4
    mixed = "mixed" in precision
    connector = [] if system.context is None else [system.context.connector]
    tower = [] if system.context is None else [system.context.tower]
    # A true half precision converts the model and the connector, and what lies in fewer bits stays.
    kept = 2 if precision.endswith("16-true") else None
    counts = [_bytes(part, kept) for part in (system.model, *connector)]
    averaged = [_averaged_bytes(part, kept) for part in (system.model, *connector)]
    averaged += [_averaged_bytes(part, None) for part in tower]
    here = system.averaging is not None and system.averaging.device == "same"
    towers = [_bytes(part, None) for part in tower]
    encoders = sum(c[1] + c[2] for c in towers) + sum(_bytes(system.codec, None))
    if system.idle == "offload":  # they visit when no activations are held
        encoders = sum(c[1] + c[2] for c in towers if c[0])
    states, temporaries = optimizer_numbers(system.make_optimizer)
    width = backbone.spec.width
    sizes = BlockSizes(tokens, context, width, ffn_width(backbone), backbone.heads, number)
    return Holding(
        trained=sum(c[0] for c in (*counts, *towers)),
        frozen=sum(c[1] for c in counts),
        stored=sum(c[2] for c in counts),
        encoders=encoders,
        block=sum(_bytes(backbone.blocks[0], 2 if mixed else kept)[:2]),
        states=states,
        temporaries=temporaries,
        sizes=sizes,
        reads=reads_of(backbone.blocks[0], mixed),
        # Latents, noise, prediction, their loss in float32; tokens twice packed and in the head.
        outside=(8 * 4 * prod(latents) + 2 * context * width * number, 4 * tokens * width * number),
        average=sum(a[0] for a in averaged) if here else 0.0,
        widened=sum(a[1] for a in averaged) if here else 0.0,
    )


def optimizer_numbers(make: Callable[[Any], Any]) -> tuple[float, float]:
    """What an optimizer keeps, found by a step of a small matrix.

    Args:
        make: makes it from parameters.

    Returns:
        Numbers kept for each number that trains, and those it takes besides in a step: one where
        it treats all parameters together, as torch's do on CUDA unless they are fused.
    """
    with torch.device("cpu"):
        weight = nn.Parameter(torch.zeros(16, 16))
        weight.grad = torch.zeros(16, 16)
        optimizer = make([weight])
        optimizer.step()
    inner = parts_of(optimizer)
    tensors = [
        value
        for each in inner
        for state in each.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    defaults = inner[0].defaults
    together = not defaults.get("fused") and defaults.get("foreach") is not False
    return sum(t.numel() for t in tensors) / weight.numel(), float(together and bool(tensors))


def _bytes(module: nn.Module, size: int | None) -> tuple[float, float, float]:
    """Bytes of what trains, of what does not, and of what is stored in fewer bits.

    Args:
        module: on any device.
        size: bytes a number of the first two; None is their own.
    """
    found = {True: 0.0, False: 0.0}
    for parameter in module.parameters():
        each = parameter.element_size() if size is None else size
        found[parameter.requires_grad] += parameter.numel() * each
    layers = [layer for layer in module.modules() if isinstance(layer, StoredLinear)]
    stored = sum(t.numel() * t.element_size() for layer in layers for t in layer.stored)
    return found[True], found[False], float(stored)


def _averaged_bytes(module: nn.Module, size: int | None) -> tuple[float, float]:
    """Bytes of the average of what trains, and of that part of it whose weights are narrower.

    Args:
        module: on any device.
        size: bytes a number of the weights; None is their own.
    """
    whole = narrow = 0.0
    for parameter in module.parameters():
        if parameter.requires_grad:
            each = parameter.element_size() if size is None else size
            held = parameter.numel() * max(each, 4)  # `AveragedWeights` keeps at least float32
            whole += held
            narrow += held if each < 4 else 0.0
    return whole, narrow
