"""`EditData`: what a trainer is given. The order comes from a plan, and so does resuming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from vedit.batch import Batch
from vedit.data.cache import CacheReader, CacheStatus
from vedit.data.cache_keys import Kind, images_read
from vedit.data.dataset import BatchDataset, EditDataset
from vedit.data.index import read_index
from vedit.data.mixture import Mixture, conditions_of
from vedit.data.plan import BatchPlan, Bucket, bucket_of
from vedit.data.plan_sampler import PlanSampler
from vedit.data.transforms import ReferenceTransform
from vedit.errors import ConfigError, DataError

Use = Literal["auto", "always", "never"]


class EditData(LightningDataModule):
    """Training, validation and test samples from folders of shards.

    Args:
        train: A folder, several, or several with a weight each: a sample of a dataset with weight
            w is shown w times in an epoch.
        validation: A folder or several.
        test: A folder or several; their pixels are always decoded.
        batch_size: Samples on each rank.
        tokens_per_batch: Tokens on each rank instead: a batch holds as many samples as there is
            room for, whatever their size. ``batch_size`` then serves validation and test alone.
        pack: Put samples of different shapes into one batch, side by side in one sequence without
            padding. With ``tokens_per_batch`` a batch holds as many as there is room for if all
            were the largest.
        eval_batch_size: Samples on each rank in validation and test; None takes ``batch_size``.
        task_weights: How often samples of a kind ("image", "video", "reference" for those with
            one, or another task) are shown, times the weight of their folder; 0 leaves them out,
            kinds that are not named weigh 1.
        num_workers: Processes that read ahead; with cached latents 0 is fast.
        prefetch_factor: Batches that each of those holds ready; None is two.
        seed: Start of the order of batches, the choice of wordings and augmentation.
        latents: "auto" uses cached latents and features where they are complete, "always" insists
            on the latents, "never" encodes on the fly.
        wording: "random" draws one of an instruction's wordings in training, "first" does not.
        reference: What happens to reference images in training, and without its chance in
            validation and tests; None letterboxes them.
        drop_last: Leave out batches that are smaller than ``batch_size``.
        pin_memory: Copy batches to pinned memory, from which a GPU fetches them while it works.
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
        tokens_per_batch: int | None = None,
        pack: bool = False,
        eval_batch_size: int | None = None,
        task_weights: dict[str, float] | None = None,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
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
        if prefetch_factor is not None and not num_workers:
            raise ConfigError("data.prefetch_factor: nobody reads ahead; set data.num_workers too.")
        self.train, self.validation, self.test = (
            _weighted(train),
            _listed(validation),
            _listed(test),
        )
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers, self.seed, self.pin_memory = num_workers, seed, pin_memory
        self.prefetch_factor = prefetch_factor
        self.use_latents, self.wording = latents, wording
        self.reference, self.limit = reference, limit
        self.mixture = Mixture(
            self.train,
            task_weights or {},
            turns,
            batch_size,
            tokens_per_batch,
            drop_last,
            seed,
            pack,
        )
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

    def train_dataloader(self) -> DataLoader[Batch]:
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
        records = [[entry.record for entry in d.entries[: self.limit]] for d in datasets]
        rank, ranks = self._ranks()
        plan = self.mixture.plan(records, ranks, self._tokens_of)
        self._sampler = PlanSampler(plan, rank, self.consumed)
        return self._loader(datasets, self._sampler, self.mixture.pack)

    def _tokens_of(self, bucket: Bucket) -> int:
        count = getattr(self._system(), "tokens_of", None)
        if count is None:
            raise ConfigError("data.tokens_per_batch: needs a model that tells a sample's tokens.")
        return int(count((bucket.frames, bucket.height, bucket.width), conditions_of(bucket)))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The validation samples in order."""
        return self._in_order(self.validation, pixels=False) if self.validation else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The test samples in order, with their pixels."""
        return self._in_order(self.test, pixels=True) if self.test else []

    def predict_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The test samples in order, with their pixels."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count the batches that are trained on, not those that were fetched ahead."""
        if self.trainer is not None and self.trainer.training:
            self.consumed += 1
            if self._sampler is not None:
                self._sampler.consumed = self.consumed
        return batch

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Copy the batch while the device works; what is not pinned is waited for."""
        stays = getattr(getattr(self._system(), "context", None), "on_host", ())
        return batch.to(device, device.type == "cuda", stays)

    def state_dict(self) -> dict[str, Any]:
        """One integer says where the order of data stands."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the order of data."""
        self.consumed = int(state_dict["consumed"])
        if self._sampler is not None:
            self._sampler.consumed = self.consumed

    def _in_order(self, folders: Sequence[str], pixels: bool) -> DataLoader[Batch]:
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
        self, datasets: Sequence[EditDataset], sampler: PlanSampler, pack: bool = False
    ) -> DataLoader[Batch]:
        return DataLoader(
            BatchDataset(datasets, pack),
            sampler=sampler,
            batch_size=None,  # the sampler yields whole batches
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def _dataset(self, folder: str, **arguments: Any) -> EditDataset:
        """A folder with those of its caches that are to be used."""
        context = getattr(self._system(), "context", None)
        reads = images_read(context)
        latents = self._cache(folder, "latents", ())
        features = self._cache(folder, "features", reads)
        if not arguments.get("pixels") and getattr(self._system(), "model", None) is not None:
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
