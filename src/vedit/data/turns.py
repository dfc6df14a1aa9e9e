"""Strict turns: a fixed cycle over kinds of samples, or over folders, one batch at a time.

Kiwi-Edit trains so: its code takes an image, a video and a video with a reference in turn, its
paper speaks of twice as many images (2:1:1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vedit.data.kinds import KINDS, kind_of, record_as, stands_in
from vedit.data.plan import BatchPlan, Bucket, Draw, Plan, bucket_of
from vedit.data.schema import SampleRecord
from vedit.errors import ConfigError, nearest


def interleaved(turns: Sequence[int]) -> tuple[int, ...]:
    """A cycle in which number i comes `turns[i]` times, as evenly spread as can be.

    Args:
        turns: how often each number comes, at least once.

    Returns:
        The cycle, `sum(turns)` numbers.

    Examples:
        >>> interleaved([2, 1, 1])
        (0, 1, 2, 0)
        >>> interleaved([1, 1, 1])
        (0, 1, 2)
    """
    credit = [0] * len(turns)
    cycle = []
    for _ in range(sum(turns)):
        credit = [c + t for c, t in zip(credit, turns, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(turns)
        cycle.append(chosen)
    return tuple(cycle)


class RoundRobin(Plan):
    """Several plans that take turns in a fixed cycle, whatever their lengths.

    Each plan goes on where it stopped: all of its samples are shown before one of them is shown
    again, in whichever epoch that falls. An epoch is as many whole cycles as the plan that is
    exhausted first has batches for, as in Kiwi-Edit's code, but at least one.

    Args:
        plans: who takes turns.
        turns: how many batches of each make a cycle.

    Raises:
        ConfigError: if no plan is given or a number of turns is not positive.
    """

    def __init__(self, plans: Sequence[BatchPlan], turns: Sequence[int]) -> None:
        if not plans or len(plans) != len(turns) or min(turns) < 1:
            raise ConfigError(f"turns: got {list(turns)}, expected a whole number >= 1 for each.")
        self.plans, self.turns = tuple(plans), tuple(turns)
        self.ranks, self.shuffle = plans[0].ranks, plans[0].shuffle
        self.cycle = interleaved(turns)
        cycles = min(p.batches_per_epoch // t for p, t in zip(plans, turns, strict=True))
        self.batches_per_epoch = max(1, cycles) * len(self.cycle)

    def global_batches(self, consumed: int) -> Iterator[list[Draw]]:
        """Yield the global batches from number `consumed` on, to the end of its epoch."""
        end = (consumed // self.batches_per_epoch + 1) * self.batches_per_epoch
        current: dict[int, tuple[int, list[list[Draw]]]] = {}
        for number in range(consumed, end):
            who, taken = self._turn(number)
            epoch, index = divmod(taken, self.plans[who].batches_per_epoch)
            if who not in current or current[who][0] != epoch:
                current[who] = epoch, self.plans[who].epoch(epoch)
            yield current[who][1][index]

    def _turn(self, number: int) -> tuple[int, int]:
        """Whose turn a global batch is, and how many turns that plan had before."""
        cycles, place = divmod(number, len(self.cycle))
        who = self.cycle[place]
        return who, cycles * self.turns[who] + self.cycle[:place].count(who)


@dataclass(frozen=True)
class Turn:
    """Who has a turn.

    Attributes:
        name: a folder, or a kind of samples.
        kind: what its samples are shown as; None is as they are.
        takes: for each folder, whether it takes each sample.
    """

    name: str
    kind: str | None
    takes: list[list[bool]]

    def buckets(self, records: Sequence[Sequence[SampleRecord]]) -> list[list[Bucket | None]]:
        """Buckets of its samples; None stands for those of others."""
        return [
            [
                bucket_of(record_as(record, self.kind)) if mine else None
                for record, mine in zip(rows, taken, strict=True)
            ]
            for rows, taken in zip(records, self.takes, strict=True)
        ]

    def seed(self, seed: int) -> int:
        """A seed of its own, so that folders of equal length are not shuffled alike."""
        digest = hashlib.blake2b(f"{seed}/{self.name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1


def turns_of(
    records: Sequence[Sequence[SampleRecord]], folders: Sequence[str], turns: Mapping[str, int]
) -> list[Turn]:
    """Which samples each turn takes.

    A folder takes its samples as they are. A kind takes the samples that are of it; if there are
    none, those that can stand in for it, so that a curriculum of three kinds can be run on videos
    with references alone.

    Args:
        records: for each folder, its samples.
        folders: their names.
        turns: names, all of them folders or all of them kinds, and how many batches of each make a
            cycle; 0 leaves it out on purpose.

    Returns:
        Those with a turn, in the order of `turns`.

    Raises:
        ConfigError: if a name is neither, a turn has no samples, or a sample would have no turn.
    """
    names = [name for name, times in turns.items() if times]
    if all(name in folders for name in turns):
        found = [Turn(n, None, _rows(records, folders, partial(_lies_in, n))) for n in names]
    else:
        found = [_turn_of_kind(name, records, folders) for name in names]
    for number, rows in enumerate(records):
        for i, record in enumerate(rows):
            left_out = turns.get(folders[number], turns.get(kind_of(record))) == 0
            if not left_out and not any(turn.takes[number][i] for turn in found):
                raise ConfigError(
                    f"data.turns: {kind_of(record)} {record.key} of {folders[number]} never has a "
                    "turn; add one for it, or 0 to leave such samples out."
                )
    return found


def _lies_in(name: str, record: SampleRecord, folder: str) -> bool:
    return folder == name


def _turn_of_kind(
    name: str, records: Sequence[Sequence[SampleRecord]], folders: Sequence[str]
) -> Turn:
    takes = _rows(records, folders, lambda record, _: kind_of(record) == name)
    if not any(map(any, takes)):
        takes = _rows(records, folders, lambda record, _: stands_in(record, name))
    if not any(map(any, takes)):
        there = sorted({kind_of(record) for rows in records for record in rows})
        raise ConfigError(
            f"data.turns: no samples for '{name}'; there are {', '.join(there)}, in "
            f"{', '.join(folders)}.{nearest(name, [*KINDS, *folders])}"
        )
    return Turn(name, name, takes)


def _rows(
    records: Sequence[Sequence[SampleRecord]],
    folders: Sequence[str],
    takes: Callable[[SampleRecord, str], bool],
) -> list[list[bool]]:
    return [
        [takes(record, folder) for record in rows]
        for folder, rows in zip(folders, records, strict=True)
    ]
