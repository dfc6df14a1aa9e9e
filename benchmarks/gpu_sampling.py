"""Time to edit one clip: the steps of the sampler with both branches of guidance, and decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_step import GIB, release
from gpu_workloads import Overrides, Workload
from torch import Tensor

from vedit.system import EditSystem


@dataclass(frozen=True)
class SamplingRow:
    """What sampling took.

    Attributes:
        workload: its name.
        variant: what differs from the workload.
        step_seconds: a step of the sampler, both branches in one batch; median.
        decode_seconds: latents to pixels.
        steps: of the sampler as configured.
        clip_seconds: all configured steps at the median, and decoding.
        peak_gib: most memory held at once.
        failure: why there is no time.
    """

    workload: str
    variant: str
    step_seconds: float | None = None
    decode_seconds: float | None = None
    steps: int = 0
    clip_seconds: float | None = None
    peak_gib: float | None = None
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def sampling_row(
    workload: Workload, name: str, variant: Overrides, steps: int, device: str, tiny: bool
) -> SamplingRow:
    """Sample for a few steps and decode once.

    Args:
        workload: the system and its size.
        name: of the variant.
        variant: overrides on top of the workload's.
        steps: timed, after two that are not.
        device: "cuda" or "cpu".
        tiny: whether to run it at toy size.

    Returns:
        Times; or why there are none, if it does not fit into memory.
    """
    try:
        return _measured(workload, name, variant, steps, device, tiny)
    except torch.cuda.OutOfMemoryError:
        return SamplingRow(workload.name, name, failure="out of memory")
    finally:
        release()


@torch.no_grad()
def _measured(
    workload: Workload, name: str, variant: Overrides, steps: int, device: str, tiny: bool
) -> SamplingRow:
    built = _built(workload, variant, device, tiny)
    batch = workload.batch(built, tiny).to(device)
    shape = batch.latents["target"].shape
    ends = [time.perf_counter()]

    def note(step: int, total: int) -> None:
        _wait(device)
        ends.append(time.perf_counter())

    _wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(device, torch.bfloat16):
        conditions = built.conditions(batch)
        latents = built.sample(conditions, shape, seed=0, steps=steps + 2, progress=note)
    turns = [b - a for a, b in zip(ends, ends[1:], strict=False)][2:]
    step = statistics.median(turns)
    decode = _seconds(lambda: built.codec.decode(latents), device)  # type: ignore[union-attr]
    configured = int(getattr(built.sampler, "steps", 0))
    return SamplingRow(
        workload.name,
        name,
        step_seconds=step,
        decode_seconds=decode,
        steps=configured,
        clip_seconds=configured * step + decode,
        peak_gib=torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None,
    )


def _built(workload: Workload, variant: Overrides, device: str, tiny: bool) -> EditSystem:
    built = workload.system(variant, tiny)
    with torch.device(device):
        built.build()
    assert built.model is not None
    built.model.to(torch.bfloat16)
    return built.to(device).eval()


def _seconds(call: Callable[[], Tensor], device: str) -> float:
    call()
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
