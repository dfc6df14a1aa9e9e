"""When checkpoints are written: every so many steps, and when Ctrl-C is pressed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from vedit.transfer import Late, sent


class PeriodicCheckpoint(ModelCheckpoint):
    """`last.ckpt` every few steps and at the end of training, and the best few beside it.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        keep: checkpoints to keep besides `last.ckpt`; -1 keeps all, 0 none.
        monitor: metric whose smallest values are kept, such as "val/loss"; null keeps the newest.
    """

    def __init__(
        self, every_n_steps: int = 1000, keep: int = 1, monitor: str | None = None
    ) -> None:
        # Without a metric to choose by, the newest is the one with the largest step.
        super().__init__(
            filename="step_{step:07d}",
            auto_insert_metric_name=False,
            monitor="step" if monitor is None else monitor,
            mode="max" if monitor is None else "min",
            save_top_k=keep,
            save_last=True,
            every_n_train_steps=every_n_steps,
            # The step is never stale: nothing to wait for validation for.
            save_on_train_epoch_end=monitor is None,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt` if training ends between two checkpoints."""
        super().on_train_end(trainer, pl_module)
        if trainer.global_step % self.every_n_steps and self.dirpath is not None:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")


class Interrupted(Exception):  # noqa: N818 (a request, not an error)
    """Training stopped at the user's request, between two steps.

    Args:
        step: optimizer steps done.
        checkpoint: where the state went, None if nowhere.
        config: the run's resolved configuration, None if it was not saved.
    """

    def __init__(self, step: int, checkpoint: Path | None, config: Path | None) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step, self.checkpoint, self.config = step, checkpoint, config


class StopOnInterrupt(Callback):
    """Ctrl-C finishes the step, writes `last.ckpt` and stops; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None
        self._asked: Late | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to Ctrl-C; Lightning has noted the earlier handlers by now and restores them."""
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop between two optimizer steps."""
        batch_idx = args[2] if len(args) > 2 else kwargs["batch_idx"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._stop_if_requested(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """A validation may be long: stop in it too."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_requested(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give Ctrl-C back; Lightning calls no teardown after an exception."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any rank had heard the signal when all were last asked.

        All ranks stop at the same step, whoever heard it first. An answer is read when the next
        question is asked: by then it is there, and nobody waits for the device.
        """
        mine = torch.tensor(float(self.requested))
        question = sent(mine, trainer.strategy.root_device)
        answer, self._asked = self._asked, Late(trainer.strategy.reduce(question, reduce_op="max"))
        return answer is not None and bool(answer.read().tolist())

    def _stop_if_requested(self, trainer: Trainer) -> None:
        if not (self._agreed(trainer) if trainer.world_size > 1 else self.requested):
            return
        callback = trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None)
        path = Path(folder) / "last.ckpt" if folder else None
        if path is not None:
            trainer.save_checkpoint(path)
        config = Path(trainer.log_dir) / "config.yaml" if trainer.log_dir else None
        there = config if config is not None and config.is_file() else None
        raise Interrupted(trainer.global_step, _short(path), _short(there))


def _short(path: Path | None) -> Path | None:
    if path is not None and path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    return path
