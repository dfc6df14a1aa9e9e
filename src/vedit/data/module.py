"""`EditData`: what a trainer is given. The order comes from a plan, and so does resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, DistributedSampler

from vedit.batch import EditBatch
from vedit.data.cache import CacheReader, CacheStatus
from vedit.data.cache_keys import Kind, images_read
from vedit.data.dataset import BatchDataset, EditDataset
from vedit.data.index import read_index
from vedit.data.plan import BatchPlan, Draw, Plan, bucket_of
from vedit.data.schema import SampleRecord
from vedit.data.transforms import ReferenceTransform
from vedit.data.turns import RoundRobin, turns_of
from vedit.errors import ConfigError, DataError

Use = Literal["auto", "always", "never"]


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


class EditData(LightningDataModule):
    """Training, validation and test samples from folders of shards.

    Args:
        train: A folder, several, or several with a weight each: a sample of a dataset with weight
            w is shown w times in an epoch.
        validation: A folder or several.
        test: A folder or several; their pixels are always decoded.
        batch_size: Samples on each rank.
        eval_batch_size: The same for validation and test; None takes ``batch_size``.
        num_workers: Processes that read ahead; with cached latents 0 is fast.
        seed: Start of the order of batches, the choice of wordings and augmentation.
        latents: "auto" uses cached latents and features where they are complete, "always" insists
            on the latents, "never" encodes on the fly.
        wording: "random" draws one of an instruction's wordings in training, "first" does not.
        reference: What happens to reference images in training, and without its chance in
            validation and tests; None letterboxes them.
        drop_last: Leave out batches that are smaller than ``batch_size``.
        pin_memory: Copy batches to pinned memory, for a GPU.
        limit: Train on the first so many samples of each folder alone, to overfit on purpose.
        turns: Strict turns between kinds of samples ("image", "video", "reference") or between the
            folders of ``train``: how many batches of each make a cycle, 0 to leave it out; None
            mixes them all. Where there are none of a kind, others stand in, see
            `vedit.data.kinds`.
    """

    def __init__(
        self,
        train: str | list[str] | dict[str, float] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        batch_size: int = 1,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        latents: Use = "auto",
        wording: Literal["random", "first"] = "random",
        reference: ReferenceTransform | None = None,
        drop_last: bool = False,
        pin_memory: bool = False,
        limit: int | None = None,
        turns: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.test = (
            _weighted(train),
            _listed(validation),
            _listed(test),
        )
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.seed, self.pin_memory = num_workers, seed, pin_memory
        self.use_latents, self.wording, self.drop_last = latents, wording, drop_last
        self.reference, self.limit, self.turns = reference, limit, turns
        self.consumed = 0
        """Global batches trained on so far: the whole state of the order of data."""
        self._sampler: PlanSampler | None = None
        self._limit_val_batches: int | float | None = None

    def setup(self, stage: str) -> None:
        """Check that there is data, and an index in every folder, before anything slow happens.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ConfigError: Nothing is configured to evaluate on, or the trainer is to overfit, which
                takes `limit` here.
            DataError: A folder has no readable index, or it does not fit the shards.
        """
        needed = {"validate": "validation", "test": "test", "predict": "test"}.get(stage)
        if needed is not None and not getattr(self, needed):
            raise _missing(needed)
        for folder in (*self.train, *self.validation, *self.test):
            read_index(folder)
        if stage == "fit" and self.trainer is not None:
            self._check_trainer(self.trainer)

    def _check_trainer(self, trainer: Trainer) -> None:
        if overfit := getattr(trainer, "overfit_batches", 0):
            raise ConfigError(
                f"trainer.overfit_batches: got {overfit}; to overfit on purpose "
                "say on how many samples with data.limit."
            )
        if not self.validation:  # no loop over nothing, of which Lightning would warn
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def teardown(self, stage: str) -> None:
        """Leave the trainer as it was."""
        if self._limit_val_batches is not None and self.trainer is not None:
            self.trainer.limit_val_batches = self._limit_val_batches
            self._limit_val_batches = None

    def train_dataloader(self) -> DataLoader[EditBatch]:
        """Batches from where training stands.

        Returns:
            Whole batches of this rank, to the end of the epoch.

        Raises:
            ConfigError: No training data is configured.
            DataError: A cache is stale, or missing while ``latents`` is "always".
        """
        if not self.train:
            raise _missing("train")
        datasets = [
            self._dataset(f, wording=self.wording, reference=self.reference) for f in self.train
        ]
        plan = self._plan([[e.record for e in d.entries[: self.limit]] for d in datasets])
        self._sampler = PlanSampler(plan, self._ranks()[0], self.consumed)
        return self._loader(datasets, self._sampler)

    def _plan(self, records: Sequence[Sequence[SampleRecord]]) -> Plan:
        """The order of training, by turns if there are any."""
        size, ranks, last = self.batch_size, self._ranks()[1], self.drop_last
        weights = list(self.train.values())
        if self.turns is None:
            buckets = [[bucket_of(record) for record in rows] for rows in records]
            return BatchPlan(buckets, weights, size, ranks, self.seed, drop_last=last)
        plans = [
            BatchPlan(
                turn.buckets(records), weights, size, ranks, turn.seed(self.seed),
                drop_last=last, kind=turn.kind,
            )
            for turn in turns_of(records, list(self.train), self.turns)
        ]  # fmt: skip
        return RoundRobin(plans, [times for times in self.turns.values() if times])

    def val_dataloader(self) -> DataLoader[EditBatch] | list[Any]:
        """The validation samples in order."""
        return self._in_order(self.validation, pixels=False) if self.validation else []

    def test_dataloader(self) -> DataLoader[EditBatch] | list[Any]:
        """The test samples in order, with their pixels."""
        return self._in_order(self.test, pixels=True) if self.test else []

    def predict_dataloader(self) -> DataLoader[EditBatch] | list[Any]:
        """The test samples in order, with their pixels."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: EditBatch, dataloader_idx: int) -> EditBatch:
        """Count the batches that are trained on, not those that were fetched ahead."""
        if self.trainer is not None and self.trainer.training:
            self.consumed += 1
            if self._sampler is not None:
                self._sampler.consumed = self.consumed
        return batch

    def state_dict(self) -> dict[str, Any]:
        """One integer says where the order of data stands."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the order of data."""
        self.consumed = int(state_dict["consumed"])
        if self._sampler is not None:
            self._sampler.consumed = self.consumed

    def _in_order(self, folders: Sequence[str], pixels: bool) -> DataLoader[EditBatch]:
        still = None if self.reference is None else self.reference.still()
        datasets = [self._dataset(f, pixels=pixels, reference=still) for f in folders]
        rank, ranks = self._ranks()
        plan = BatchPlan(
            [[bucket_of(e.record) for e in d.entries] for d in datasets],
            [1.0] * len(datasets),
            self.eval_batch_size,
            ranks,
            self.seed,
            shuffle=False,
        )
        return self._loader(datasets, PlanSampler(plan, rank))

    def _loader(
        self, datasets: Sequence[EditDataset], sampler: PlanSampler
    ) -> DataLoader[EditBatch]:
        return DataLoader(
            BatchDataset(datasets),
            sampler=sampler,
            batch_size=None,  # the sampler yields whole batches
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def _dataset(self, folder: str, **arguments: Any) -> EditDataset:
        """A folder with those of its caches that are to be used."""
        context = getattr(self._system(), "context", None)
        reads = images_read(context)
        latents = self._cache(folder, "latents", ())
        features = self._cache(folder, "features", reads)
        if features is None and latents is not None and reads:
            arguments["pixels"] = True  # the context encoder has to look at them
        elif not arguments.get("pixels") and getattr(self._system(), "model", None) is not None:
            arguments["pixels"] = self._system().reads_pixels()
        return EditDataset(folder, latents, features, reads, **arguments)

    def _cache(self, folder: str, kind: Kind, reads: Sequence[str]) -> CacheReader | None:
        if self.use_latents == "never":
            return None
        system = self._system()
        encoder = getattr(system, "codec" if kind == "latents" else "context", None)
        if kind == "features" and system is not None and not _costs(encoder):
            return None
        if kind == "features" and not getattr(system, "stored_features_hold", True):
            return None  # made anew at every step
        made_by = getattr(encoder, "fingerprint", lambda: None)()
        cache = CacheReader(folder, kind, made_by)
        status: CacheStatus = cache.status(read_index(folder).entries, reads)
        if status.complete:
            return cache
        if self.use_latents == "always" and kind == "latents":
            raise DataError(
                f"{folder}: {status.present} of {status.needed} samples have cached {kind}, "
                f"data.latents is 'always'; run `vedit data encode {folder}`."
            )
        return None

    def _system(self) -> Any:
        return None if self.trainer is None else self.trainer.lightning_module

    def _ranks(self) -> tuple[int, int]:
        """This rank and how many share a global batch (model-parallel peers share the data)."""
        if self.trainer is None:
            return 0, 1
        ranks = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return ranks["rank"], ranks["num_replicas"]


def _missing(key: str) -> ConfigError:
    return ConfigError(f"data.{key}: expected at least one folder of shards, got none.")


def _costs(context: Any) -> bool:
    """Whether features are worth storing: not those of a model without words, or of no weights."""
    tower = getattr(context, "tower", None)
    return context is not None and (tower is None or any(True for _ in tower.parameters()))


def _listed(folders: str | Sequence[str] | None) -> list[str]:
    if folders is None:
        return []
    return [folders] if isinstance(folders, str) else list(folders)


def _weighted(folders: str | Sequence[str] | Mapping[str, float] | None) -> dict[str, float]:
    return dict(folders) if isinstance(folders, Mapping) else dict.fromkeys(_listed(folders), 1.0)
