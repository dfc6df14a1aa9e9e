"""What a launcher is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vedit.sweep.folder import Recorded, SweepFolder


@dataclass(frozen=True)
class Queued:
    """What a queue says about a run.

    Attributes:
        phase: "waiting" in the queue, "running", "cancelled" there, or "gone" from it.
        note: the queue's own words, and where.
    """

    phase: Literal["waiting", "running", "cancelled", "gone"]
    note: str = ""


class Launcher(ABC):
    """Starts runs and sees them through.

    Attributes:
        look_every: seconds between two looks at where the runs stand.
    """

    look_every: float = 1.0

    @abstractmethod
    def launch(
        self, folder: SweepFolder, runs: Sequence[Recorded], tick: Callable[[], None]
    ) -> None:
        """Carry out runs; return when there is nothing more to wait for.

        A run whose stage before has not finished waits for it. Ctrl-C (KeyboardInterrupt) goes
        through after the launcher has done what it does about it.

        Args:
            folder: of the sweep, everything written down.
            runs: unfinished, each after the one it starts from.
            tick: to be called every now and then; it shows progress.
        """

    def queued(self, folder: SweepFolder, runs: Sequence[Recorded]) -> Mapping[str, Queued]:
        """What a queue knows of runs, by digest; empty for a launcher without one.

        Args:
            folder: of the sweep.
            runs: to ask about.

        Returns:
            By digest; runs that were never in the queue are missing.
        """
        return {}

    def cancel(self, folder: SweepFolder, runs: Sequence[Recorded]) -> list[str]:
        """Stop runs that a queue or an orphaned process goes on with.

        Args:
            folder: of the sweep.
            runs: that have not finished.

        Returns:
            Digests of those that were stopped.
        """
        return []
