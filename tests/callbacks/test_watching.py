"""What is watched in a training, on a real one of a few steps."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tests.tiny import make_shards, make_system

from vedit.backbones.recompute import RecomputeBlocks
from vedit.backbones.wan import WanDiT
from vedit.callbacks.description import describe
from vedit.callbacks.gradient_norms import GradientNorms
from vedit.callbacks.learning_rates import LearningRates
from vedit.callbacks.memory_peak import MemoryPeak, memory_peaks
from vedit.callbacks.peak import kind_of, peak_flops
from vedit.callbacks.throughput import Throughput
from vedit.callbacks.time_split import STAGES, TimeSplit
from vedit.callbacks.utilisation import Utilisation
from vedit.conditioning.dropout import ConditionDropout
from vedit.data.module import EditData
from vedit.evaluation.curve import read_losses
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan

STEPS = 4


class Sums(Callback):
    """The norms of each component, computed plainly."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, system: Any, optimizer: Any) -> None:
        def norm(module: torch.nn.Module) -> float:
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            return math.sqrt(sum(float(g.double().square().sum()) for g in grads))

        parts = {"backbone": system.model.backbone, "connector": system.context.connector}
        parts |= {f"injections.{n}": m for n, m in system.model.injections.items()}
        found = {name: norm(part) for name, part in parts.items()}
        self.norms.append(found | {"all": math.hypot(*found.values())})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and its callbacks by name."""
    folder = tmp_path_factory.mktemp("run")
    shards = str(make_shards(folder / "shards"))
    watching = [
        Sums(), GradientNorms(), LearningRates(), MemoryPeak(), TimeSplit(table=True),
        Throughput(), Utilisation(peak_tflops=0.001),
    ]  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, log_every_n_steps=1,
        check_val_every_n_epoch=None, val_check_interval=2, limit_val_batches=1,
        num_sanity_val_steps=0, gradient_clip_val=0.01, enable_model_summary=False,
        enable_progress_bar=False, enable_checkpointing=False,
        logger=TensorBoardLogger(str(folder), name="tiny", version=""), callbacks=watching,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
        data = EditData(train=shards, validation=shards, batch_size=2)
        system = make_system(
            finetune=FinetunePlan(backbone=LoRA(rank=2), connector=Full()),
            dropout=ConditionDropout(instruction=0.0),
            backbone=lambda: WanDiT(
                num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=32,
                in_channels=4, text_dim=16, freq_dim=16, recompute=RecomputeBlocks(),
            ),
        )  # fmt: skip
        trainer.fit(system, data)
    return folder / "tiny", {type(c).__name__: c for c in watching} | {"system": system}


def values(run: tuple[Path, dict[str, Any]], *names: str) -> list[list[float]]:
    curves = read_losses(run[0], names)
    assert [step for step, _ in curves[names[0]]] == list(range(STEPS))
    return [[value for _, value in curves[name]] for name in names]


def test_norms_are_those_of_the_components_before_clipping(run: Any) -> None:
    expected = run[1]["Sums"].norms
    for name in ("backbone", "injections.source", "connector", "all"):
        (found,) = values(run, f"gradients/{name}")
        assert found == pytest.approx([each[name] for each in expected], rel=1e-4)
        assert min(found) > 0 or name == "backbone"


def test_operations_count_adapters_and_what_is_computed_again(run: Any) -> None:
    watch, system = run[1]["Utilisation"], run[1]["system"]
    described = describe(system, 5, 16, 24)
    seconds, model, hardware = watch._batches[-1]
    assert hardware == pytest.approx(2 * described.step_flops)  # two samples a batch
    assert described.step_flops - model / 2 == pytest.approx(hardware / 2 - model / 2)
    assert 0 < model < hardware
    tflops, mfu, hfu = values(run, "speed/tflops", "speed/mfu", "speed/hfu")
    assert mfu == pytest.approx([t * 1e12 / 1e9 for t in tflops], rel=1e-4)
    assert hfu == pytest.approx([m * hardware / model for m in mfu], rel=1e-4)
    assert set(watch.rates()) == {"speed/tflops"}
    assert watch.rates(share=0.5)["speed/tflops"] == watch.rates()["speed/tflops"] / 2


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H20", 148), ("NVIDIA L4", 121), ("Other", None),
    ],
)  # fmt: skip
def test_peaks_are_found_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name, "bf16") == (None if peak is None else peak * 1e12)


def test_the_kind_of_products_follows_the_precision() -> None:
    assert [kind_of(p) for p in ("bf16-mixed", "bf16-true", "16-mixed")] == ["bf16"] * 3
    assert kind_of("32-true") == "fp32"


def test_the_split_covers_the_time_of_a_batch(run: Any) -> None:
    split = run[1]["TimeSplit"]
    assert len(split._done) == STEPS - 2  # the first one, and the one after the validation
    assert all(value > 0 for value in split.split().values())
    assert set(split.split()) == set(STAGES)
    step = run[1]["Throughput"]._steps
    covered = [sum(done.values()) - done["data"] for done in split._done]
    whole = [step[i][1] for i in (1, 3)]
    assert covered == pytest.approx(whole, rel=0.5)
    lines = split.lines()
    assert lines[0].startswith("time of a batch, mean of 2:")
    assert [line.split()[0] for line in lines[1:]] == list(STAGES)


def test_memory_and_rates_are_logged(run: Any) -> None:
    peak, rate = values(run, "memory/peak", "lr/all")
    assert peak == sorted(peak)
    assert 0.05 < peak[-1] <= memory_peaks(torch.device("cpu"))["peak"] < 100
    assert rate == pytest.approx([0.01] * STEPS)
