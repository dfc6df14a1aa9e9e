"""The loader against the step: what `vedit fit` waits for, and what the loader could give.

The quickstart's experiment from stored latents and features. The wait is what passes between the
end of one step and the next batch; alone, the loader is asked for batches as fast as it can make
them, in the same process and right after the run. Both are on the wall clock, since waiting is no
work. Below 1 the loader makes more batches than the step takes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from fit_step import EXPERIMENT, shards
from lightning.pytorch import Trainer
from timing import Clock

from vedit.callbacks.time_split import TimeSplit
from vedit.cli.experiment import check, read
from vedit.cli.lightning_cli import EditCLI


class Waiting(TimeSplit):
    """Splits the time of a step, then times the loader without one.

    Args:
        batches: to average over.
    """

    def __init__(self, batches: int) -> None:
        super().__init__(window=batches)
        self.batches, self.alone = batches, 0.0

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Ask for batches and do nothing with them."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.consumed = 0
        loader = data.train_dataloader()
        taken, began = 0, time.perf_counter()
        while taken < self.batches:
            taken += sum(1 for _ in loader)
        self.alone = (time.perf_counter() - began) / taken


def loader(clock: Clock) -> None:
    """The wait for a batch, and a batch of the loader alone, against a step of `vedit fit`."""
    with tempfile.TemporaryDirectory() as name:
        data = shards(Path(name))
        watch = measured(data, Path(name), max(8, clock.pairs))
        split = watch.split()
        wait = split.pop("data")
        step = sum(split.values())
        print(
            f"  step {1e3 * step:7.1f} ms   wait {1e3 * wait:6.1f} ms   "
            f"loader alone {1e3 * watch.alone:6.1f} ms   wait / step {wait / step:.3f}   "
            f"loader / step {watch.alone / step:.3f}"
        )


def measured(data: Path, runs: Path, batches: int) -> Waiting:
    """Train a few steps, with no process that reads ahead.

    Args:
        data: encoded shards.
        runs: where the run's folder goes.
        batches: to average over.
    """
    steps = batches + 3
    overrides: list[tuple[str, Any]] = [
        ("data.train", str(data)),
        ("data.validation", None),
        ("data.test", None),
        ("trainer.max_steps", steps),
        ("model.lr_scheduler.init_args.total_steps", steps + 1),
        ("trainer.logger.init_args.save_dir", str(runs)),
        # Samples and reports are work of their own, not part of a step.
        ("trainer.callbacks", [{"class_path": "vedit.callbacks.progress.LogProgress"}]),
    ]
    watch = Waiting(batches)

    class Watched(EditCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(watch)
            return trainer

    Watched.run("fit", check(read([str(EXPERIMENT)], overrides)))
    return watch
