"""A step of `vedit fit` against the same step in a bare PyTorch loop.

One run of the quickstart's experiment. After each of its steps the same batch goes through a copy
of the same model in the plainest loop: noise, forward, loss, backward, clipping, optimiser. What
`vedit fit` needs beyond it (reading shards, hooks, logging, progress) is all that the ratio shows.
"""

from __future__ import annotations

import copy
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from vedit.batch import Conditions, EditBatch
from vedit.cli import main as vedit
from vedit.cli.experiment import check, read
from vedit.cli.lightning_cli import EditCLI
from vedit.engine.build import build
from vedit.engine.build_config import BuildConfig
from vedit.flow.path import interpolate, velocity
from vedit.system import EditSystem
from vedit.video import write_video

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "configs/experiments/quickstart.yaml"
WARM_UP = 3


class BareLoop:
    """The least that trains: a copy of the model, its optimiser and schedule.

    Args:
        system: after `configure_model`.
    """

    def __init__(self, system: EditSystem) -> None:
        self.parts = nn.ModuleDict(
            {"model": copy.deepcopy(system.model), "connector": copy.deepcopy(system.context)}
        )
        weights = [p for p in self.parts.parameters() if p.requires_grad]
        self.weights = weights
        self.optimizer = system.make_optimizer(weights)
        self.scheduler = system.make_lr_scheduler(self.optimizer)
        self.noise_levels = system.noise_levels

    def step(self, batch: EditBatch, present: frozenset[str]) -> None:
        """One step on a batch whose latents and features are in memory.

        Args:
            batch: as `vedit fit` was given it.
            present: conditions that were not dropped.
        """
        clean = batch.latents["target"].float()
        sigma = self.noise_levels.sample(len(batch), torch.Generator().manual_seed(0))
        noise = torch.randn_like(clean)
        latents = {n: v.float() for n, v in batch.latents.items() if n in present}
        with torch.autocast("cpu", torch.bfloat16):
            context = self.parts["connector"].context(batch.features)
            conditions = Conditions(latents, context)
            predicted = self.parts["model"](interpolate(clean, noise, sigma), sigma, conditions)
            loss: Tensor = (predicted.float() - velocity(clean, noise)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()


class Pairs(Callback):
    """Times a whole turn of the trainer's loop, then a bare step on the same batch.

    Args:
        clock: seconds so far.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.times: list[tuple[float, float]] = []
        self.began: float | None = None
        self.present: frozenset[str] = frozenset()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Copy the model, and watch which conditions each step keeps."""
        self.bare = BareLoop(pl_module)
        pl_module.model.register_forward_pre_hook(self._watch)

    def _watch(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.present = frozenset(arguments[2].latents)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: EditBatch, batch_idx: int
    ) -> None:
        """Close the turn that ends here, and open the next one after the bare step."""
        now = self.clock()
        whole = None if self.began is None else now - self.began
        self.bare.step(batch, self.present)
        after = self.clock()
        if whole is not None:
            self.times.append((whole, after - now))
        self.began = self.clock()


def shards(folder: Path) -> Path:
    """Encoded shards of the experiment's size, from a clip of moving noise."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 255, (64, 160, 3), generator=generator).byte()
    frames = torch.stack([still[:, 2 * i : 2 * i + 112] for i in range(20)])
    (folder / "clips").mkdir()
    write_video(folder / "clips/noise.mp4", frames, 24.0)
    (folder / "clips/splits.json").write_text('{"noise.mp4": {"train": [[0, null]]}}')
    built = folder / "train"
    edits = ["grayscale", "sepia", "negative", "pixelate"]
    settings: dict[str, Any] = {"clips": folder / "clips", "output": built, "split": "train"}
    settings |= {"edits": edits, "windows": 8, "frames": 9, "height": 64, "width": 112}
    build(BuildConfig(**settings, strides=[1], reference=True), progress=lambda line: None)
    config = str(ROOT / "configs/data/quickstart.yaml")
    code = vedit(["data", "encode", str(built), "--config", config])
    assert code == 0, "encoding failed"
    return built


def fit_step(pairs: int, clock: Callable[[], float] = time.process_time) -> None:
    """A step of `vedit fit` against a bare PyTorch loop on the same model and batch."""
    with tempfile.TemporaryDirectory() as name:
        steps = pairs + WARM_UP + 1
        overrides: list[tuple[str, Any]] = [
            ("data.train", str(shards(Path(name)))),
            ("data.validation", None),
            ("data.test", None),
            ("trainer.max_steps", steps),
            ("model.lr_scheduler.init_args.total_steps", steps + 1),
            ("trainer.logger.init_args.save_dir", name),
            # Samples and reports are work of their own, not part of a step.
            ("trainer.callbacks", [{"class_path": "vedit.callbacks.progress.LogProgress"}]),
        ]
        checked = check(read([str(EXPERIMENT)], overrides))
        timing = Pairs(clock)
        times = measured(checked, timing)
    ratio = statistics.median(a / b for a, b in times)
    fit, bare = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(f"  step   vedit fit {fit:8.1f} ms   bare loop {bare:8.1f} ms   ratio {ratio:.3f}")


def measured(checked: Any, timing: Pairs) -> list[tuple[float, float]]:
    """Run the experiment with the timing callback; the steps after the warm-up."""

    class Timed(EditCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(timing)  # last, so that a turn holds all of the others
            return trainer

    gc.collect()
    gc.disable()
    Timed.run("fit", checked)
    gc.enable()
    return timing.times[WARM_UP:]
