"""Speed on this CPU: `make bench`, or `python benchmarks/cpu.py [section ...]`.

Two implementations are timed in one process and in turns, and their ratio is the median over the
pairs, so that whatever else the machine does falls on both alike. Ratios below 1 mean that the
first is the faster one.

Seconds are those that the processor worked for this process (all threads), which other processes
do not lengthen by waiting; `--clock wall` takes the time on the wall, for a machine left alone.

A section is a function of a `Clock` that prints its own lines, in a file named by what it measures;
adding one is adding it to `SECTIONS`.
"""

import argparse
import time
from collections.abc import Callable

import torch
from backbone import backbone, breakdown
from compiled import compiled
from fit_step import fit_step
from loader import loader
from packed import packed
from recomputing import recompute
from scaling import modulation, tokens
from timing import CLOCKS, Clock


def fit(clock: Clock) -> None:
    """A step of `vedit fit` against a bare PyTorch loop, same model and batch."""
    fit_step(clock.pairs, clock.now)


SECTIONS: dict[str, Callable[[Clock], None]] = {
    "backbone": backbone,
    "breakdown": breakdown,
    "fit": fit,
    "loader": loader,
    "tokens": tokens,
    "modulation": modulation,
    "packed": packed,
    "recompute": recompute,
    "compiled": compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each implementation")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments = parser.parse_args()
    clock = Clock(arguments.clock, arguments.pairs)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name in arguments.sections or SECTIONS:
        began = time.perf_counter()
        print(f"\n{name}: {SECTIONS[name].__doc__}", flush=True)
        SECTIONS[name](clock)
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
