"""Training steps and sampling at published sizes on one GPU, against diffusers and PEFT.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --only 'easyv2v 480p' --seconds 300
    python benchmarks/gpu.py --tiny            # all of it at toy size, on any machine

Weights are random, of the real shapes; latents and features come from memory, as from a cache.
Every row is measured by itself and printed when it is there; `--output` is written after each, so
that what was measured is kept whatever happens. With `--seconds`, rows that would begin later are
left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gpu_peer import TINY as TINY_PEER
from gpu_peer import Peer, peer_row
from gpu_sampling import SamplingRow, sampling_row
from gpu_step import StepRow, step_row
from gpu_workloads import BASE, LORA, Overrides, Workload

PEAK = 989e12
"""Dense bfloat16 operations a second of an H100 or H200 (SXM), by the data sheet."""

EAGER: Overrides = {"model.compile": None}


def keeping(share: float) -> Overrides:
    """Compiled, a share of the activations kept."""
    return {
        "model.compile": {
            "class_path": "vedit.compilation.CompileBlocks",
            "init_args": {"keep": share},
        }
    }


COMPILE = keeping(1.0)

KEEP_ALL: Overrides = {"model.backbone.init_args.recompute": None}
FEED_FORWARD: Overrides = {"model.backbone.init_args.recompute": "RecomputeFeedForward"}
KEEP_ATTENTION: Overrides = {"model.backbone.init_args.recompute": "KeepAttention"}
BLOCKS: Overrides = {"model.backbone.init_args.recompute": "RecomputeBlocks"}
FLOAT8: Overrides = {
    "model.finetune.backbone.init_args.base": {
        "class_path": "vedit.finetune.storage.Float8",
        "init_args": {"multiply": True},
    }
}
DECODER_2_1: Overrides = {"model.codec.init_args.config.base_dim": 96}
"""Sampling decodes with the real decoder; that of Wan 2.2 has a width of its own."""

FULL: Overrides = {
    "model.finetune.backbone": {"class_path": "vedit.finetune.full.Full"},
}


def kernel(name: str) -> Overrides:
    """Attention by that kernel."""
    return {"model.backbone.init_args.attention": name}


EASY_480 = Workload("easyv2v 480p", "easyv2v/480p", (81, 480, 832), overrides=BASE)
EASY_704 = Workload("easyv2v 704p", "easyv2v/704p", (81, 704, 1280), overrides=BASE)
KIWI_704 = Workload("kiwi_edit 704p", "kiwi_edit/stage2_720", (81, 704, 1280), overrides=FULL)
KIWI_LORA = Workload("kiwi_edit 704p LoRA", "kiwi_edit/stage2_720", (81, 704, 1280), overrides=LORA)
MIVE_720 = Workload(
    "mive 720p LoRA", "mive/720p", (81, 720, 1280), context=2048, references=1, overrides=LORA
)
MIVE_480 = replace(MIVE_720, name="mive 480p LoRA", video=(81, 480, 832))
SIX_480 = replace(
    EASY_480,
    name="easyv2v 480p, 6 of 30 blocks",
    overrides={**BASE, "model.backbone.init_args.num_layers": 6},
)
"""What sets variants apart is in the blocks: a few of them tell as much in a fifth of the time."""
SIZES_5B = {
    "num_layers": 30, "num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336,
    "in_channels": 48, "out_channels": 48,
}  # fmt: skip
PEER_480 = Peer("easyv2v 480p", SIZES_5B, (21, 30, 52))
PEER_704 = Peer("easyv2v 704p", SIZES_5B, (21, 44, 80))
PEER_KIWI = Peer("kiwi_edit 704p LoRA", SIZES_5B, (21, 44, 80), source=False)


@dataclass(frozen=True)
class Run:
    """What every measurement is told.

    Attributes:
        device: "cuda" or "cpu".
        tiny: whether to run at toy size.
    """

    device: str
    tiny: bool


@dataclass(frozen=True)
class Measurement:
    """A row of a table, to be measured.

    Attributes:
        name: of workload and variant.
        take: measures it.
    """

    name: str
    take: Callable[[Run], StepRow | SamplingRow]


def step(
    workload: Workload, name: str, *variant: Overrides, steps: int = 3, warm_up: int = 2
) -> Measurement:
    """A training step of ours."""
    merged = {key: value for part in variant for key, value in part.items()}
    return Measurement(
        f"step {workload.name}: {name}",
        lambda run: step_row(workload, name, merged, steps, warm_up, run.tiny),
    )


def sample(workload: Workload, name: str, *variant: Overrides, steps: int = 3) -> Measurement:
    """A clip sampled by ours."""
    merged = {key: value for part in variant for key, value in part.items()}
    return Measurement(
        f"sample {workload.name}: {name}",
        lambda run: sampling_row(workload, name, merged, steps, run.device, run.tiny),
    )


def peer(one: Peer, steps: int = 3, warm_up: int = 1) -> Measurement:
    """A training step of the peer."""

    def take(run: Run) -> StepRow:
        small = replace(one, sizes={**one.sizes, **TINY_PEER}, grid=(3, 4, 4), rank=4, context=16)
        return peer_row(small if run.tiny else one, steps, warm_up, run.device)

    return Measurement(f"step {one.workload}: peer", take)


def plan() -> list[Measurement]:
    """What is measured, the most telling first."""
    quick = {"steps": 2, "warm_up": 1}
    return [
        step(EASY_480, "compiled, keeps all", COMPILE, KEEP_ALL),
        peer(PEER_480),
        step(EASY_704, "compiled, keeps 0.6", keeping(0.6), KEEP_ALL, **quick),
        peer(PEER_704, steps=2),
        sample(EASY_480, "compiled", COMPILE),
        step(MIVE_480, "compiled, recomputes blocks", COMPILE, BLOCKS, steps=1, warm_up=1),
        step(SIX_480, "eager, keeps all", EAGER, KEEP_ALL),
        step(SIX_480, "eager, recomputes feed-forward", EAGER, FEED_FORWARD),
        step(SIX_480, "eager, keeps attention", EAGER, KEEP_ATTENTION),
        step(SIX_480, "eager, recomputes blocks", EAGER, BLOCKS),
        step(SIX_480, "eager, keeps all, cuDNN", EAGER, kernel("cudnn"), KEEP_ALL),
        step(SIX_480, "eager, keeps all, xformers", EAGER, kernel("xformers"), KEEP_ALL),
        step(SIX_480, "eager, keeps all, PyTorch's choice", EAGER, kernel("sdpa"), KEEP_ALL),
        step(SIX_480, "compiled, keeps all", COMPILE, KEEP_ALL),
        step(SIX_480, "compiled, keeps 0.6", keeping(0.6), KEEP_ALL),
        step(SIX_480, "compiled, recomputes feed-forward", COMPILE, FEED_FORWARD),
        step(SIX_480, "compiled, keeps attention", COMPILE, KEEP_ATTENTION),
        step(SIX_480, "compiled, recomputes blocks", COMPILE, BLOCKS),
        step(KIWI_704, "full, compiled, keeps attention", COMPILE, KEEP_ATTENTION, **quick),
        step(SIX_480, "compiled, keeps all, float8 products", COMPILE, KEEP_ALL, FLOAT8),
        step(KIWI_LORA, "compiled, keeps all", COMPILE, KEEP_ALL, **quick),
        peer(PEER_KIWI, steps=2),
        step(EASY_704, "compiled, keeps attention", COMPILE, KEEP_ATTENTION, **quick),
        step(MIVE_720, "compiled, recomputes blocks", COMPILE, BLOCKS, steps=1, warm_up=1),
        sample(EASY_704, "compiled", COMPILE, steps=2),
        sample(EASY_480, "eager", EAGER),
        sample(MIVE_720, "compiled", COMPILE, DECODER_2_1, steps=1),
    ]


def line(row: StepRow | SamplingRow) -> str:
    """A row for people."""
    if row.failure:
        return f"{row.failure}"
    if isinstance(row, SamplingRow):
        return (
            f"{row.step_seconds:.3f} s a step, decoding {row.decode_seconds:.2f} s, "
            f"{row.clip_seconds:.1f} s a clip of {row.steps} steps"
        )
    text = f"{row.seconds:.3f} s"
    if row.petaflop:
        rates = (row.petaflop, row.petaflop_published)
        used = [f"{1e15 * rate / row.seconds / PEAK:.1%}" for rate in rates]  # type: ignore[operator]
        text += f", MFU {used[0]} ({used[1]} without adapters)"
    if row.first is not None:
        text += f", first {row.first:.1f} s"
    if row.peak_gib is None:
        return text
    return f"{text}, peak {row.peak_gib:.1f} GiB ({row.estimated_gib:.1f} by formula)"


def machine() -> dict[str, str]:
    """What the figures are of."""
    import diffusers
    import peft

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="regular expression that names must contain")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row later")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    arguments = parser.parse_args(given)
    began = time.perf_counter()
    run = Run("cuda" if torch.cuda.is_available() else "cpu", arguments.tiny)
    rows: list[dict[str, Any]] = []
    for one in plan():
        if not re.search(arguments.only, one.name):
            continue
        if (elapsed := time.perf_counter() - began) > arguments.seconds:
            print(f"[{elapsed:6.1f}] {one.name}: left out, no time", flush=True)
            continue
        try:
            row = one.take(run)
        except Exception as error:
            # One row that fails must not lose those that were measured.
            print(f"{one.name}: {type(error).__name__}: {error}", flush=True)
            rows.append({"name": one.name, "failure": f"{type(error).__name__}: {error}"})
        else:
            print(f"[{time.perf_counter() - began:6.1f}] {one.name}: {line(row)}", flush=True)
            rows.append({"name": one.name, **row.as_dict()})
        if arguments.output is not None:
            text = json.dumps({"machine": machine(), "rows": rows}, indent=1)
            arguments.output.write_text(text)
    if any("Error" in row.get("failure", "") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
