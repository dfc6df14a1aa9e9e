"""End a training on all ranks when one of them is lost, and name it."""

from __future__ import annotations

import os
import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer

from vedit.callbacks.checkpoint import Interrupted
from vedit.errors import VeditError
from vedit.parallel.watch import Door, End, Watch

NAMING_S = 2.0
"""For the watch to name who died, when a collective fails first."""


class WatchPeers(Callback):
    """Ends this process within seconds when another rank dies or fails; see `vedit.parallel.watch`.

    It does nothing where there is one process.
    """

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._local_rank = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect the ranks, before anything slow happens."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if self._watch is not None or trainer.world_size == 1 or environment is None:
            return
        self._local_rank = trainer.local_rank
        door: Door | None = None
        if trainer.global_rank == 0:
            self._watch = Watch(0, self._end)
            door = self._watch.door
        door = trainer.strategy.broadcast(door)
        if trainer.global_rank > 0:
            address = environment.main_address
            self._watch = Watch(trainer.global_rank, self._end, door, address)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave in order."""
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Tell the others, or wait to be told who died where a collective failed of it."""
        if isinstance(exception, Interrupted):
            self._leave()
            return
        if not isinstance(exception, (VeditError, KeyboardInterrupt)) and self._watch is not None:
            time.sleep(NAMING_S)
        self._leave(" ".join(f"{type(exception).__name__}: {exception}".split())[:500])

    def _leave(self, failure: str | None = None) -> None:
        if self._watch is not None:
            self._watch.leave(failure)
            self._watch = None

    def _end(self, end: End) -> None:
        """Leave at once: the main thread waits in a collective that will not end."""
        # One line a machine, and one at all where the process that would print it is gone.
        if self._local_rank == 0 or end.rank == 0:
            print(f"vedit: {end.reason}; ending the other ranks", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)
