"""Timing two implementations in turns, on one clock."""

import gc
import statistics
import time
from collections.abc import Callable

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


class Clock:
    """Seconds, and the comparisons made with them.

    Args:
        name: "cpu", what the processor worked for this process (all threads), or "wall".
        pairs: runs of each implementation.
    """

    def __init__(self, name: str = "cpu", pairs: int = 9) -> None:
        self.now: Callable[[], float] = CLOCKS[name]
        self.pairs = pairs

    def seconds(self, run: Callable[[], object]) -> float:
        """What one run takes."""
        start = self.now()
        run()
        return self.now() - start

    def compare(
        self, ours: Callable[[], object], theirs: Callable[[], object], pairs: int | None = None
    ) -> tuple[float, float, float]:
        """Median seconds of both, and the median of the ratios of neighbouring runs."""
        ours(), theirs()
        gc.collect()
        gc.disable()
        times = []
        for i in range(pairs or self.pairs):
            # Which one goes first alternates: the second finds warmer caches and a hotter
            # processor.
            first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
            a, b = self.seconds(first), self.seconds(second)
            times.append((a, b) if i % 2 == 0 else (b, a))
        gc.enable()
        mine, other = zip(*times, strict=True)
        ratio = statistics.median(a / b for a, b in times)
        return statistics.median(mine), statistics.median(other), ratio
