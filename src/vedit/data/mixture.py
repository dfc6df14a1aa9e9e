"""What training is shown, how often, and how many samples make a batch: settings to a plan."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vedit.data.kinds import kind_of, record_as
from vedit.data.plan import BatchPlan, Bucket, Plan, bucket_of
from vedit.data.schema import SampleRecord
from vedit.data.turns import RoundRobin, turns_of
from vedit.errors import ConfigError, nearest
from vedit.references import reference_name

TokensOf = Callable[[Bucket], int]
"""Tokens that the backbone reads for one sample of a bucket."""

Records = Sequence[Sequence[SampleRecord]]
Buckets = Sequence[Sequence[Bucket | None]]


class Loose(NamedTuple):
    """What samples of one batch have in common where their shapes may differ.

    Attributes:
        conditions: that they bring.
        weight: of their kind.
    """

    conditions: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Mixture:
    """Settings of the order of training, see `vedit.data.module.EditData`.

    Attributes:
        folders: Weight of each folder, by name.
        task_weights: Weight of each kind of sample; those that are not named weigh 1.
        turns: Batches of each kind or folder in a cycle; None mixes them.
        batch_size: Samples on each rank.
        tokens_per_batch: Tokens on each rank; None goes by samples.
        drop_last: Leave out batches that are not full.
        seed: Start of all randomness.
        pack: Whether samples of one batch may differ in shape and kind.
    """

    folders: Mapping[str, float]
    task_weights: Mapping[str, float] = field(default_factory=dict)
    turns: Mapping[str, int] | None = None
    batch_size: int = 1
    tokens_per_batch: int | None = None
    drop_last: bool = False
    seed: int = 0
    pack: bool = False

    def plan(self, records: Records, ranks: int, tokens_of: TokensOf) -> Plan:
        """The order of training.

        Args:
            records: For each folder, its samples.
            ranks: Processes that share a global batch.
            tokens_of: Asked if batches go by tokens.

        Returns:
            A pure function of the seed and the epoch.

        Raises:
            ConfigError: A setting does not suit the samples.
        """
        self._check_kinds(records)
        if self.turns is None:
            buckets = [[bucket_of(record) for record in rows] for rows in records]
            return self._mixed(records, buckets, ranks, tokens_of, self.seed)
        plans = [
            self._mixed(
                records, turn.buckets(records), ranks, tokens_of, turn.seed(self.seed), turn.kind
            )
            for turn in turns_of(records, list(self.folders), self.turns)
        ]
        return RoundRobin(plans, [times for times in self.turns.values() if times])

    def _mixed(
        self,
        records: Records,
        buckets: Buckets,
        ranks: int,
        tokens_of: TokensOf,
        seed: int,
        kind: str | None = None,
    ) -> BatchPlan:
        """The plan of those samples that have a bucket, each shown as a kind."""
        shown = (record_as(record, kind) for rows in records for record in rows)
        kinds = {bucket_of(record): kind_of(record) for record in shown}
        weights: dict[Any, float] = {
            bucket: self.task_weights.get(name, 1.0) for bucket, name in kinds.items()
        }
        buckets = [[b if b is not None and weights[b] else None for b in row] for row in buckets]
        sizes: int | Mapping[Any, int] = self.batch_size
        if self.tokens_per_batch is not None:
            every = (bucket for row in buckets for bucket in row if bucket is not None)
            sizes = samples_by_budget(every, self.tokens_per_batch, tokens_of)
        groups: Sequence[Sequence[Hashable | None]] = buckets
        if self.pack:
            loose = {b: Loose(conditions_of(b), weight) for b, weight in weights.items()}
            groups = [[None if b is None else loose[b] for b in row] for row in buckets]
            weights = {group: group.weight for group in loose.values()}
            if not isinstance(sizes, int):
                sizes = {
                    group: min(size for b, size in sizes.items() if loose[b] == group)
                    for group in {loose[b] for b in sizes}
                }
        return BatchPlan(
            groups,
            list(self.folders.values()),
            sizes,
            ranks,
            seed,
            drop_last=self.drop_last,
            kind=kind,
            bucket_weights={group: weight for group, weight in weights.items() if weight},
        )

    def _check_kinds(self, records: Records) -> None:
        there = {kind_of(record) for rows in records for record in rows}
        there |= set(self.turns or ()) - set(self.folders)
        for name, weight in self.task_weights.items():
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"data.task_weights.{name}: got {weight}, expected 0 or more.")
            if name not in there:
                raise ConfigError(
                    f"data.task_weights.{name}: no sample is of that kind; there are "
                    f"{', '.join(sorted(there))}.{nearest(name, there)}"
                )


def conditions_of(bucket: Bucket) -> tuple[str, ...]:
    """Conditions that samples of a bucket bring beside the instruction, references one by one."""
    mask = ("mask",) if bucket.mask else ()
    return ("source", *mask, *map(reference_name, range(bucket.references)))


def samples_by_budget(
    buckets: Iterable[Bucket], budget: int, tokens_of: TokensOf
) -> dict[Bucket, int]:
    """As many samples of each bucket as the budget has room for.

    Args:
        buckets: Of all samples.
        budget: Tokens of a batch on each rank.
        tokens_of: Tokens of one sample.

    Returns:
        Samples of a batch on each rank, by bucket.

    Raises:
        ConfigError: One sample alone is over the budget.
    """
    sizes = {}
    for bucket in dict.fromkeys(buckets):
        tokens = tokens_of(bucket)
        if tokens > budget:
            shape = f"{bucket.frames}x{bucket.height}x{bucket.width}"
            raise ConfigError(
                f"data.tokens_per_batch: got {budget}, but one {bucket.task} of {shape} with "
                f"{', '.join(conditions_of(bucket))} makes {tokens} tokens; expected at least that."
            )
        sizes[bucket] = budget // tokens
    return sizes
