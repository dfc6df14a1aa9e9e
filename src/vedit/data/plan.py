"""The order of batches: a pure function of (seed, epoch), the same for any number of workers.

Samples of one bucket (same shape, same conditions) fill a batch, so every rank sees the same kind
of batch at each step and no gradient reduction waits for a module that one rank left unused. One
integer, the global batches consumed, says where to resume.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vedit.data.schema import SampleRecord
from vedit.errors import ConfigError


@dataclass(frozen=True)
class Draw:
    """One showing of a sample.

    Attributes:
        dataset: Number of the dataset.
        sample: Number of the sample in it.
        seed: Of everything random about this showing.
        kind: What to show it as, see `vedit.data.kinds`; None is as it is.
    """

    dataset: int
    sample: int
    seed: int
    kind: str | None = None


class Bucket(NamedTuple):
    """What samples of one batch have in common.

    Attributes:
        task: Kind of sample.
        frames: Length.
        height: Pixels.
        width: Pixels.
        mask: Whether they have one.
        references: How many they have; the sizes of those may differ.
    """

    task: str
    frames: int
    height: int
    width: int
    mask: bool
    references: int


def bucket_of(record: SampleRecord) -> Bucket:
    """What the samples share that may be batched with this one."""
    shape = (record.frames, record.height, record.width)
    return Bucket(record.task, *shape, record.has_mask, len(record.references))


class Plan(ABC):
    """An endless order of global batches, cut into epochs of one length.

    Attributes:
        batches_per_epoch: global batches of an epoch.
        ranks: processes that share a global batch.
        shuffle: whether the order is random.
    """

    batches_per_epoch: int
    ranks: int
    shuffle: bool

    @abstractmethod
    def global_batches(self, consumed: int) -> Iterator[list[Draw]]:
        """Yield the global batches from number ``consumed`` on, to the end of its epoch."""

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """All global batches of an epoch, each of one bucket."""
        return list(self.global_batches(epoch * self.batches_per_epoch))

    def batches(self, consumed: int, rank: int = 0) -> Iterator[list[Draw]]:
        """The batches of one rank from ``consumed`` global batches on, to the end of the epoch."""
        for batch in self.global_batches(consumed):
            yield batch[rank :: self.ranks]


class BatchPlan(Plan):
    """Batches of a weighted mixture of datasets.

    The weight of a sample is that of its dataset times that of its bucket. With weight w it is
    shown floor(w) times in each epoch and, with the fractional part as its probability, once more;
    which ones changes with the epoch. The fractional parts are settled over all buckets of a
    dataset (`apportioned`), and no bucket is left out. A bucket whose samples do not fill its last
    batch makes a smaller one; where its size is no multiple of the ranks, samples of the bucket
    are repeated, fewer than there are ranks.

    Args:
        buckets: For each dataset the bucket of each sample, see `bucket_of`; None leaves a sample
            out.
        weights: For each dataset its weight, > 0.
        batch_size: Samples on each rank, the same for all buckets or by bucket.
        ranks: Processes that share a global batch.
        seed: Start of all randomness.
        shuffle: Without it, batches come in the order of the datasets.
        drop_last: Leave out smaller batches.
        kind: What to show samples as, see `vedit.data.kinds`; None is as they are.
        bucket_weights: Weights of buckets, > 0; those that are not named weigh 1.

    Raises:
        ConfigError: No samples, no batch, or a weight or size out of range.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[Hashable | None]],
        weights: Sequence[float],
        batch_size: int | Mapping[Any, int],
        ranks: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        kind: str | None = None,
        bucket_weights: Mapping[Any, float] | None = None,
    ) -> None:
        members = _by_bucket(buckets)
        sizes = {b: batch_size if isinstance(batch_size, int) else batch_size[b] for b in members}
        if ranks < 1 or min(sizes.values(), default=1) < 1:
            raise ConfigError(f"batch_size: got {batch_size} on {ranks} ranks, expected >= 1.")
        every = [*weights, *(bucket_weights or {}).values()]
        if len(weights) != len(buckets) or any(not 0 < w < float("inf") for w in every):
            raise ConfigError(f"train: weights {every}, expected a number > 0 for each.")
        self.ranks, self.seed = ranks, seed
        self.shuffle, self.drop_last, self.kind = shuffle, drop_last, kind
        counts = _counts(members, weights, bucket_weights or {})
        self._members = [
            (ranks * sizes[bucket], [(d, samples, counts[bucket, d]) for d, samples in parts])
            for bucket, parts in members.items()
        ]
        shown = [(whole, sum(count for _, _, count in parts)) for whole, parts in self._members]
        self.batches_per_epoch = sum(
            size // whole if drop_last else -(-size // whole) for whole, size in shown
        )
        if not self.batches_per_epoch:
            largest = sorted((size for _, size in shown), reverse=True)[:5]
            raise ConfigError(
                f"batch_size: got {batch_size} on {ranks} ranks, but the buckets hold "
                f"{largest} samples: not one batch."
            )

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """All global batches of an epoch, each of one bucket."""
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[Draw]] = []
        for whole, parts in self._members:
            chosen = np.concatenate([_shown(*part, rng) for part in parts])
            order = rng.permutation(len(chosen)) if self.shuffle else np.arange(len(chosen))
            batches += self._cut(chosen[order], whole, epoch)
        if not self.shuffle:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def global_batches(self, consumed: int) -> Iterator[list[Draw]]:
        """Yield the global batches from number ``consumed`` on, to the end of its epoch."""
        epoch, first = divmod(consumed, self.batches_per_epoch)
        yield from self.epoch(epoch)[first:]

    def _cut(self, rows: np.ndarray, whole: int, epoch: int) -> list[list[Draw]]:
        count = len(rows)
        padded = count // whole * whole if self.drop_last else -(-count // self.ranks) * self.ranks
        draws = [self._draw(rows[i % count], epoch, i // count) for i in range(padded)]
        return [draws[i : i + whole] for i in range(0, padded, whole)]

    def _draw(self, row: np.ndarray, epoch: int, repeat: int) -> Draw:
        dataset, sample, showing = map(int, row)
        name = f"{self.seed}/{epoch}/{dataset}/{sample}/{showing}/{repeat}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return Draw(dataset, sample, int.from_bytes(digest, "big") >> 1, self.kind)


def apportioned(dues: Sequence[float]) -> list[int]:
    """Whole numbers near what is due, whose sum is that of the dues, rounded.

    Each is its due rounded down or up; where the sum asks for it, those with the largest fractions
    are rounded up (Hamilton's method). None is below 1.

    Args:
        dues: Numbers above 0.

    Returns:
        A whole number for each.

    Examples:
        >>> apportioned([1.5, 1.5, 2.0])
        [2, 1, 2]
        >>> apportioned([0.2, 2.9])
        [1, 3]
    """
    whole = [int(due) for due in dues]
    missing = round(sum(dues)) - sum(whole)
    by_fraction = sorted(range(len(dues)), key=lambda i: whole[i] - dues[i])
    for i in by_fraction[:missing]:
        whole[i] += 1
    return [max(1, count) for count in whole]


def _counts(
    members: Mapping[Hashable, Sequence[tuple[int, np.ndarray]]],
    weights: Sequence[float],
    bucket_weights: Mapping[Any, float],
) -> dict[tuple[Hashable, int], int]:
    """Samples that each dataset shows of each bucket in every epoch."""
    dues: dict[int, dict[Hashable, float]] = {}
    for bucket, parts in members.items():
        for d, samples in parts:
            weight = weights[d] * bucket_weights.get(bucket, 1.0)
            dues.setdefault(d, {})[bucket] = weight * len(samples)
    return {
        (bucket, d): count
        for d, due in dues.items()
        for bucket, count in zip(due, apportioned(list(due.values())), strict=True)
    }


def _shown(dataset: int, samples: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (dataset, sample, showing) of one dataset in one bucket."""
    turns, rest = divmod(count, len(samples))
    extra = np.sort(rng.permutation(len(samples))[:rest])
    shown = np.concatenate([np.tile(samples, turns), samples[extra]])
    showing = np.arange(count) // len(samples)
    return np.stack([np.full(count, dataset), shown, showing], axis=1)


def _by_bucket(
    buckets: Sequence[Sequence[Hashable | None]],
) -> dict[Hashable, list[tuple[int, np.ndarray]]]:
    """For each bucket, in order of appearance, the samples of each dataset in it."""
    found: dict[Hashable, dict[int, list[int]]] = {}
    for dataset, names in enumerate(buckets):
        for sample, name in enumerate(names):
            if name is not None:
                found.setdefault(name, {}).setdefault(dataset, []).append(sample)
    return {name: [(d, np.asarray(s)) for d, s in parts.items()] for name, parts in found.items()}
