"""A training step as `vedit fit` runs it, timed: Lightning's loop around `EditSystem`."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gpu_workloads import Overrides, Workload
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from vedit.backbones.flops import adapter_flops
from vedit.callbacks.description import describe
from vedit.system import EditSystem

GIB = 2**30
PRECISION = "bf16-mixed"


@dataclass(frozen=True)
class StepRow:
    """What a training step took.

    Attributes:
        workload: its name.
        variant: what differs from the workload.
        seconds: median of the timed steps; None if the step did not fit.
        peak_gib: most memory held at once, of tensors; None on a CPU.
        tokens: of a sample.
        petaflop: model FLOPs of a step, adapters included, nothing that is computed twice.
        estimated_gib: the peak by formula.
        petaflop_published: the same without the adapters' own, as tables of the field count.
        first: seconds of the first step, compilation included.
        loss: of the last step.
        failure: why there is no time.
    """

    workload: str
    variant: str
    seconds: float | None = None
    peak_gib: float | None = None
    tokens: int = 0
    petaflop: float = 0.0
    estimated_gib: float = 0.0
    petaflop_published: float = 0.0
    first: float | None = None
    loss: float | None = None
    failure: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Stopwatch(Callback):
    """Times whole turns of the trainer's loop, on a device that has caught up.

    Args:
        warm_up: steps before the peak of memory counts.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.ends, self.loss = warm_up, [], float("nan")
        self.peak: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._note()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        """Note the end of a turn."""
        self._note()
        self.loss = float(outputs["loss"])
        if torch.cuda.is_available():
            if len(self.ends) == self.warm_up + 1:
                torch.cuda.reset_peak_memory_stats()
            self.peak = torch.cuda.max_memory_allocated() / GIB

    def _note(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def turns(self) -> list[float]:
        """Seconds of each turn."""
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


def step_row(
    workload: Workload, name: str, variant: Overrides, steps: int, warm_up: int, tiny: bool
) -> StepRow:
    """Train for a few steps on one stored sample.

    Args:
        workload: the system and its size.
        name: of the variant.
        variant: overrides on top of the workload's.
        steps: timed.
        warm_up: not timed.
        tiny: whether to run it at toy size.

    Returns:
        The median step; or why there is none, if it does not fit into memory.
    """
    watch = Stopwatch(warm_up)
    flops = _flops(workload, variant, tiny)
    failure = ""
    try:
        _fit(workload.system(variant, tiny), workload, watch, steps + warm_up, tiny)
    except torch.cuda.OutOfMemoryError:
        failure = "out of memory"
    release()
    if failure:
        return StepRow(workload.name, name, failure=failure, **flops)
    turns = watch.turns()
    return StepRow(
        workload.name,
        name,
        seconds=statistics.median(turns[warm_up:]),
        peak_gib=watch.peak,
        first=turns[0],
        loss=watch.loss,
        **flops,
    )


def _flops(workload: Workload, variant: Overrides, tiny: bool) -> dict[str, Any]:
    """Tokens and model FLOPs: what a step costs that computes nothing twice."""
    built = workload.system(variant, tiny)
    built.build(meta=True)
    assert built.model is not None
    given = {"references": workload.references, "precision": PRECISION}
    estimated = describe(built, *workload.size(tiny), **given).memory.peak / GIB
    built.model.backbone.recompute = [None for _ in built.model.backbone.blocks]
    described = describe(built, *workload.size(tiny), **given)
    attended = described.context_tokens or 0
    adapters = 3 * adapter_flops(built.model.backbone.blocks, described.tokens, attended)
    return {
        "tokens": described.tokens,
        "estimated_gib": estimated,
        "petaflop": described.step_flops / 1e15,
        "petaflop_published": (described.step_flops - adapters) / 1e15,
    }


def _fit(built: EditSystem, workload: Workload, watch: Stopwatch, steps: int, tiny: bool) -> None:
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        precision=PRECISION,
        max_steps=steps,
        gradient_clip_val=1.0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    built.trainer = trainer  # the batch is made to the sizes of the codec, which is built here
    trainer.fit(built, DataLoader(_Samples(built, workload, steps, tiny), batch_size=None))


class _Samples(torch.utils.data.Dataset[Any]):
    """The same stored sample, as often as there are steps."""

    def __init__(self, built: EditSystem, workload: Workload, steps: int, tiny: bool) -> None:
        self.make = lambda: workload.batch(built, tiny)
        self.steps, self.made = steps, None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Any:
        if self.made is None:
            self.made = self.make()
            if torch.cuda.is_available():
                self.made = self.made.pin_memory()
        return self.made


def release() -> None:
    """Give the memory of what went out of use back."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
