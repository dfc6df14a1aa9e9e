"""Runs as processes of this machine, a few at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vedit.errors import ConfigError
from vedit.sweep.folder import Recorded, SweepFolder
from vedit.sweep.launchers.base import Launcher
from vedit.sweep.state import is_held, write_state
from vedit.sweep.worker import PATIENCE, stop_orphan

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class _Process:
    run: Recorded
    popen: subprocess.Popen[bytes]
    slot: int


class Local(Launcher):
    """Runs as processes of this machine, each a process group with its own log.

    On CPUs every job gets its share of the cores. On GPUs every job gets as many of the visible
    ones as the largest run asks for, and there are as many jobs as that allows.

    Args:
        jobs: runs at a time; null takes one on CPUs, and as many as the GPUs allow.
        gpus: ids of the GPUs to use; null takes all that are visible.
        patience: seconds a run has to write its checkpoint when it is stopped.
    """

    def __init__(
        self,
        jobs: int | None = None,
        gpus: list[int] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise ConfigError(f"--jobs: expected a number above 0, got {jobs}")
        self.jobs, self.gpus, self.patience = jobs, gpus, patience

    def launch(
        self, folder: SweepFolder, runs: Sequence[Recorded], tick: Callable[[], None]
    ) -> None:
        """Carry out runs; Ctrl-C has each write a checkpoint and stop."""
        slots = self.slots(runs)
        waiting, running = list(runs), list[_Process]()
        try:
            while waiting or running:
                running = [process for process in running if process.popen.poll() is None]
                free = [i for i in range(len(slots)) if i not in {p.slot for p in running}]
                busy = {p.run.digest for p in running} | {run.digest for run in waiting}
                for run in [run for run in waiting if run.after not in busy][: len(free)]:
                    waiting.remove(run)
                    slot = free.pop(0)
                    running.append(_Process(run, self._start(folder, run, slots[slot]), slot))
                tick()
                time.sleep(0.2)
        finally:
            self._stop(running)
            tick()

    def cancel(self, folder: SweepFolder, runs: Sequence[Recorded]) -> list[str]:
        """Stop runs whose sweep is gone and that go on by themselves."""
        stopped = []
        for run in runs:
            if is_held(folder.run(run.digest)):
                stop_orphan(folder.run(run.digest), self.patience)
                stopped.append(run.digest)
        return stopped

    def slots(self, runs: Sequence[Recorded]) -> list[dict[str, str]]:
        """The environment of each job that may run at a time.

        Args:
            runs: that are to be carried out.

        Returns:
            One for each slot.

        Raises:
            ConfigError: a run needs more GPUs than there are.
        """
        gpus = _visible_gpus() if self.gpus is None else [str(gpu) for gpu in self.gpus]
        if gpus and any(run.accelerator in ("gpu", "cuda", "auto") for run in runs):
            size = max(run.devices for run in runs)
            if size > len(gpus):
                raise ConfigError(
                    f"trainer.devices: a run asks for {size} GPUs, but {len(gpus)} are visible"
                )
            groups = [gpus[i : i + size] for i in range(0, len(gpus) - size + 1, size)]
            return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups[: self.jobs]]
        jobs = self.jobs or 1
        return [_threads(max(1, _cores() // jobs)) for _ in range(jobs)]

    def _start(
        self, folder: SweepFolder, run: Recorded, slot: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        where = folder.run(run.digest)
        write_state(where, phase="waiting", note="")
        with (where / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "vedit.sweep.worker", str(where)],
                env=os.environ | slot | {"PYTHONPATH": import_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _stop(self, running: Sequence[_Process]) -> None:
        for process in running:
            if process.popen.poll() is None:
                _signal(process.popen.pid, signal.SIGINT)
        until = time.monotonic() + self.patience
        for process in running:
            try:
                process.popen.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process.popen.pid, signal.SIGKILL)
                process.popen.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _threads(count: int) -> dict[str, str]:
    return {name: str(count) for name in THREADS}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def import_path() -> str:
    """The package is found from wherever this process found it, installed or not."""
    package = str(Path(__file__).parents[3])
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.pathsep.join(dict.fromkeys([package, *known]))
