"""The order of batches: a pure function of (seed, epoch), the same for any number of workers.

Samples of one bucket (same shape, same conditions) fill a batch, so every rank sees the same kind
of batch at each step and no gradient reduction waits for a module that one rank left unused. One
integer, the global batches consumed, says where to resume.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

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


def bucket_of(record: SampleRecord) -> Hashable:
    """What samples of one batch have in common."""
    shape = (record.frames, record.height, record.width)
    return (record.task, *shape, record.has_mask, record.has_reference)


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
        """All global batches of an epoch, each of at most ``ranks * batch_size`` samples."""
        return list(self.global_batches(epoch * self.batches_per_epoch))

    def batches(self, consumed: int, rank: int = 0) -> Iterator[list[Draw]]:
        """The batches of one rank from ``consumed`` global batches on, to the end of the epoch."""
        for batch in self.global_batches(consumed):
            yield batch[rank :: self.ranks]


class BatchPlan(Plan):
    """Batches of a weighted mixture of datasets.

    In each epoch a sample of a dataset with weight w is shown floor(w) times and, with the
    fractional part as its probability, once more; which ones changes with the epoch. A bucket
    whose samples do not fill its last batch makes a smaller one; where its size is no multiple
    of the ranks, samples of the bucket are repeated, fewer than there are ranks.

    Args:
        buckets: For each dataset the bucket of each sample, see `bucket_of`; None leaves a sample
            out.
        weights: For each dataset its weight, > 0.
        batch_size: Samples on each rank.
        ranks: Processes that share a global batch.
        seed: Start of all randomness.
        shuffle: Without it, batches come in the order of the datasets.
        drop_last: Leave out smaller batches.
        kind: What to show samples as, see `vedit.data.kinds`; None is as they are.

    Raises:
        ConfigError: No samples, no batch, or a weight or size out of range.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[Hashable | None]],
        weights: Sequence[float],
        batch_size: int,
        ranks: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        kind: str | None = None,
    ) -> None:
        if batch_size < 1 or ranks < 1:
            raise ConfigError(f"batch_size: got {batch_size} on {ranks} ranks, expected >= 1.")
        if len(weights) != len(buckets) or any(not 0 < w < float("inf") for w in weights):
            raise ConfigError(f"train: weights {list(weights)}, expected a number > 0 for each.")
        self.batch_size, self.ranks, self.seed = batch_size, ranks, seed
        self.shuffle, self.drop_last, self.kind = shuffle, drop_last, kind
        self._weights = list(weights)
        self._members = _by_bucket(buckets)
        sizes = [self._size(parts) for parts in self._members]
        self.batches_per_epoch = sum(map(self._batches_of, sizes))
        if not self.batches_per_epoch:
            raise ConfigError(
                f"batch_size: got {batch_size} on {ranks} ranks, but the buckets hold "
                f"{sorted(sizes, reverse=True)[:5]} samples: not one batch."
            )

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """All global batches of an epoch, each of at most ``ranks * batch_size`` samples."""
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[list[Draw]] = []
        for parts in self._members:
            chosen = np.concatenate([self._shown(d, samples, rng) for d, samples in parts])
            order = rng.permutation(len(chosen)) if self.shuffle else np.arange(len(chosen))
            batches += self._cut(chosen[order], epoch)
        if not self.shuffle:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def global_batches(self, consumed: int) -> Iterator[list[Draw]]:
        """Yield the global batches from number ``consumed`` on, to the end of its epoch."""
        epoch, first = divmod(consumed, self.batches_per_epoch)
        yield from self.epoch(epoch)[first:]

    def _size(self, parts: list[tuple[int, np.ndarray]]) -> int:
        """Samples that a bucket shows in every epoch."""
        return sum(_times(self._weights[d], len(samples)) for d, samples in parts)

    def _batches_of(self, size: int) -> int:
        whole = self.ranks * self.batch_size
        return size // whole if self.drop_last else -(-size // whole)

    def _shown(self, dataset: int, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows (dataset, sample, showing) of one dataset in one bucket."""
        count = _times(self._weights[dataset], len(samples))
        turns, rest = divmod(count, len(samples))
        extra = np.sort(rng.permutation(len(samples))[:rest])
        shown = np.concatenate([np.tile(samples, turns), samples[extra]])
        showing = np.arange(count) // len(samples)
        return np.stack([np.full(count, dataset), shown, showing], axis=1)

    def _cut(self, rows: np.ndarray, epoch: int) -> list[list[Draw]]:
        whole = self.ranks * self.batch_size
        count = len(rows)
        padded = count // whole * whole if self.drop_last else -(-count // self.ranks) * self.ranks
        draws = [self._draw(rows[i % count], epoch, i // count) for i in range(padded)]
        return [draws[i : i + whole] for i in range(0, padded, whole)]

    def _draw(self, row: np.ndarray, epoch: int, repeat: int) -> Draw:
        dataset, sample, showing = map(int, row)
        name = f"{self.seed}/{epoch}/{dataset}/{sample}/{showing}/{repeat}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return Draw(dataset, sample, int.from_bytes(digest, "big") >> 1, self.kind)


def _times(weight: float, samples: int) -> int:
    return round(weight * samples)


def _by_bucket(
    buckets: Sequence[Sequence[Hashable | None]],
) -> list[list[tuple[int, np.ndarray]]]:
    """For each bucket, in order of appearance, the samples of each dataset in it."""
    found: dict[Hashable, dict[int, list[int]]] = {}
    for dataset, names in enumerate(buckets):
        for sample, name in enumerate(names):
            if name is not None:
                found.setdefault(name, {}).setdefault(dataset, []).append(sample)
    return [[(d, np.asarray(s)) for d, s in parts.items()] for parts in found.values()]
