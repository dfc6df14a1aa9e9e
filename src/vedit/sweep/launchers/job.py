"""One run as a job of a cluster, in each of its tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vedit.sweep.state import write_state
from vedit.sweep.worker import FAILED, Worker


class Job:
    """Carries out a run in one task of a job; the first task keeps the run's state.

    Args:
        delay: seconds between the notice of the time limit and the limit.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.worker: Worker | None = None

    def __call__(self, folder: Path) -> None:
        """Do what is left to do.

        Args:
            folder: of the run.

        Raises:
            RuntimeError: the run failed.
        """
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        self.worker = Worker(folder, writes=first, patience=max(5.0, self.delay - 15))
        if self.worker.run() == FAILED:
            raise RuntimeError(f"the run failed; see {folder / 'log.txt'}")

    def checkpoint(self, folder: Path) -> Any:
        """Have the training write its checkpoint: the time is over, the job will be queued again.

        Args:
            folder: of the run.

        Returns:
            What submitit is to queue.
        """
        from submitit.helpers import DelayedSubmission

        if self.worker is not None:
            self.worker.interrupt()
            write_state(folder, phase="interrupted", note="queued again after its time limit")
        return DelayedSubmission(Job(self.delay), folder)
