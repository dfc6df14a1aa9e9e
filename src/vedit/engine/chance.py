"""Random streams that follow from a seed and a purpose."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def stream(seed: int, purpose: str) -> Generator:
    """A stream of its own for each purpose, so that one sample never shifts another.

    Args:
        seed: of the build.
        purpose: what is drawn, such as the key of a sample.

    Returns:
        A generator on the CPU.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def integer(generator: Generator, below: int) -> int:
    """One of 0 .. ``below`` - 1, each as likely."""
    return int(torch.randint(below, (1,), generator=generator))
