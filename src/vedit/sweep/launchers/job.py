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
        folder: of the run.
        delay: seconds between the notice of the time limit and the limit.
    """

    def __init__(self, folder: Path, delay: float) -> None:
        self.folder, self.delay = folder.resolve(), delay
        self.worker: Worker | None = None

    def __call__(self) -> None:
        """Do what is left to do.

        Raises:
            RuntimeError: the run failed.
        """
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        self.worker = Worker(self.folder, writes=first, patience=max(5.0, self.delay - 15))
        if self.worker.run() == FAILED:
            raise RuntimeError(f"the run failed; see {self.folder / 'log.txt'}")

    def checkpoint(self) -> Any:
        """Have the training write its checkpoint: the time is over, the job will be queued again.

        Returns:
            What submitit is to queue.
        """
        from submitit.helpers import DelayedSubmission

        if self.worker is not None:
            self.worker.interrupt()
            write_state(self.folder, phase="interrupted", note="queued again after its time limit")
        return DelayedSubmission(Job(self.folder, self.delay))
