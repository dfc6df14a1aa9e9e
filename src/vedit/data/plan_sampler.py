"""The batches of a plan that one rank is dealt, as a sampler of torch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DistributedSampler

from vedit.data.plan import Draw, Plan


class PlanSampler(DistributedSampler[list[Draw]]):
    """The batches of one rank, from where training stands to the end of the plan's epoch.

    It is a `DistributedSampler` so that a trainer knows the ranks to be dealt with already; its
    length is that of a whole epoch, as Lightning expects of a loader it resumes in the middle.
    """

    def __init__(self, plan: Plan, rank: int = 0, consumed: int = 0) -> None:
        self.plan, self.rank, self.consumed = plan, rank, consumed
        self.shuffle = plan.shuffle

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the draws of each batch."""
        return self.plan.batches(self.consumed, self.rank)

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self.plan.batches_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the epoch follows from the batches consumed."""
