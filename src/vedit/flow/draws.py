"""Random numbers that depend on their seed alone: not on device, batch or past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def noise_of(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise (1, *shape), drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *shape), generator=generator)


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all parts and is the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def drawn_from(*parts: object) -> Iterator[None]:
    """Let what is drawn inside depend on those parts alone, and change nothing outside.

    Args:
        *parts: what the seed is made of, see `seed_of`.

    Yields:
        Nothing; the CPU's default generator is another one meanwhile.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*parts))
        yield
