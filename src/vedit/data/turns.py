"""Strict turns: a fixed cycle over kinds of samples, or over folders, one batch at a time.

Kiwi-Edit trains so: its code takes an image, a video and a video with a reference in turn, its
paper speaks of twice as many images (2:1:1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence

from vedit.data.plan import BatchPlan, Draw, Plan
from vedit.data.schema import SampleRecord
from vedit.errors import ConfigError, nearest


def kind_of(record: SampleRecord) -> str:
    """What a sample is in a cycle: "reference" if it has one, else its task, such as "image"."""
    return "reference" if record.has_reference else record.task


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


def split_by_turn(
    records: Sequence[Sequence[SampleRecord]], folders: Sequence[str], turns: Mapping[str, int]
) -> dict[str, list[list[bool]]]:
    """Which samples each turn takes.

    Args:
        records: for each folder, its samples.
        folders: their names.
        turns: keys are all of them folders, or all of them kinds, see `kind_of`.

    Returns:
        For each key, for each folder, whether each sample is the key's.

    Raises:
        ConfigError: if a key names neither, or some samples would never have a turn.
    """
    by_folder = all(key in folders for key in turns)
    names = [
        [folder if by_folder else kind_of(record) for record in rows]
        for folder, rows in zip(folders, records, strict=True)
    ]
    there = sorted({name for row in names for name in row})
    for key in turns:
        if key not in there:
            hint = nearest(key, [*there, *folders])
            raise ConfigError(f"data.turns: no samples of '{key}'; there are {there}.{hint}")
    if missing := [name for name in there if name not in turns]:
        raise ConfigError(
            f"data.turns: '{missing[0]}' never has a turn; add it, or leave its samples out of "
            "data.train."
        )
    return {key: [[name == key for name in row] for row in names] for key in turns}


def seed_of_turn(seed: int, key: str) -> int:
    """A seed for each turn, so that folders of equal length are not shuffled alike."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def chosen(buckets: Sequence[Hashable], rows: Sequence[bool]) -> list[Hashable | None]:
    """The buckets of the chosen samples; None leaves a sample out of a plan."""
    return [bucket if row else None for bucket, row in zip(buckets, rows, strict=True)]
