"""Random access to the samples of a folder of shards, decoded or as cached latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from vedit.batch import Batch
from vedit.data.cache import CacheReader
from vedit.data.collate import EditSample, collate, collate_unlike
from vedit.data.index import read_index
from vedit.data.kinds import sample_as, stands_in
from vedit.data.media import decode_image, decode_member
from vedit.data.plan import Draw
from vedit.data.schema import MASK, SOURCE, TARGET
from vedit.data.shards import Entry, ShardReader
from vedit.data.transforms import Letterbox, ReferenceTransform


class EditDataset:
    """The samples of one folder of shards.

    Args:
        directory: Folder with an index.
        latents: Cache to take latents from, as float32; what it serves is not decoded.
        features: Cache to take the instruction's features from.
        reads_images: Names of the images that those features depend on, or would if there were any.
        pixels: Decode the videos even where latents are cached; or the names of those to decode.
        reference: What happens to a reference image before it is encoded; the cache serves only
            what it stored. A context encoder is shown the image as it is.
        wording: "random" draws one of the wordings with each showing, "first" never does.
    """

    def __init__(
        self,
        directory: str | Path,
        latents: CacheReader | None = None,
        features: CacheReader | None = None,
        reads_images: Sequence[str] = (),
        pixels: bool | Sequence[str] = False,
        reference: ReferenceTransform | None = None,
        wording: Literal["random", "first"] = "first",
    ) -> None:
        index = read_index(directory)
        self.directory, self.entries = index.directory, index.entries
        self.latents, self.features, self.reads_images = latents, features, tuple(reads_images)
        self.pixels, self.wording = pixels, wording
        self.reference = reference or Letterbox()
        self._reader = ShardReader(self.directory)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    def __getitem__(self, draw: Draw | int) -> EditSample:
        """Read a sample; everything random about it follows from the seed of the draw.

        Args:
            draw: Which sample, with which seed, shown as what; a bare number takes seed 0.

        Returns:
            Its words with pixels (3, F, H, W) in [-1, 1], latents (C, t, h, w), or both; the
            latents of references lie along t.

        Raises:
            DataError: The shard or its cache is damaged.
        """
        draw = draw if isinstance(draw, Draw) else Draw(0, draw, 0)
        entry = self.entries[draw.sample]
        if draw.kind is None or not stands_in(entry.record, draw.kind):
            return self._read(entry, draw.seed)
        return sample_as(self._read(entry, draw.seed, in_part=True), draw.kind)

    def _read(self, entry: Entry, seed: int, in_part: bool = False) -> EditSample:
        """Read a sample; if only part of it will be shown, features of images do not serve."""
        record = entry.record
        generator = Generator().manual_seed(seed)
        looked_at = self.reads_images if in_part or self.features is None else ()
        text = record.instruction
        if self.wording == "random":
            number = int(torch.randint(len(record.instructions), (1,), generator=generator))
            text = record.instructions[number]
        videos: dict[str, Tensor] = {}
        latents: dict[str, Tensor] = {}
        for suffix in (SOURCE, TARGET, MASK):
            if suffix in entry.members:
                name = suffix.partition(".")[0]
                if self.latents is not None:
                    latents[name] = self.latents.latents(entry, suffix).float()
                if self.latents is None or self._shows(name) or name in looked_at:
                    videos[name] = decode_member(self._reader, entry, suffix)
        if record.has_reference and self._reference_is_cached():
            assert self.latents is not None
            each = [self.latents.latents(entry, suffix).float() for suffix in record.references]
            latents["reference"] = torch.cat(each, dim=1)
        images = self._references(entry)
        return EditSample(
            key=record.key,
            instruction=text,
            edit=record.edit,
            clip=record.source_clip,
            task=record.task,
            videos=videos,
            reference=self._encoded_reference(entry, images, generator),
            shown=tuple(images) if self._shows_references() else (),
            latents=latents,
            features=None if looked_at else self._features(entry, text),
        )

    def _features(self, entry: Entry, text: str) -> dict[str, Tensor] | None:
        """Cached features; floating ones as float32, in whatever type they are stored."""
        if self.features is None:
            return None
        features = self.features.features(entry, text, self.reads_images)
        return {n: f.float() if f.is_floating_point() else f for n, f in features.items()}

    def _shows(self, name: str) -> bool:
        """Whether pixels are asked for beside cached latents."""
        return self.pixels if isinstance(self.pixels, bool) else name in self.pixels

    def _reference_is_cached(self) -> bool:
        return self.latents is not None and self.reference.stored

    def _references(self, entry: Entry) -> list[Tensor]:
        """The references as they are, (3, h, w) each, where anybody wants pixels of them."""
        wanted = self._encodes_references() or self._shows_references()
        suffixes = entry.record.references if wanted else ()
        return [decode_image(self._reader, entry, suffix) for suffix in suffixes]

    def _encoded_reference(
        self, entry: Entry, images: Sequence[Tensor], generator: Generator
    ) -> Tensor | None:
        """References (R, 3, H, W) as they are encoded, unless their latents stand for them."""
        if not images or not self._encodes_references():
            return None
        size = (entry.record.height, entry.record.width)
        return self.reference.stack(images, size, generator)

    def _encodes_references(self) -> bool:
        return not self._reference_is_cached() or self._shows("reference")

    def _shows_references(self) -> bool:
        """Whether a context encoder looks at them, and its features are not cached."""
        return "reference" in self.reads_images and self.features is None


class BatchDataset(Dataset[Batch]):
    """Several datasets, read by the batch: an index is the list of draws that make one.

    Args:
        datasets: What the draws number.
        pack: Whether the samples of a batch may differ in shape.
    """

    def __init__(self, datasets: Sequence[EditDataset], pack: bool = False) -> None:
        self.datasets, self.pack = tuple(datasets), pack

    def __getitem__(self, draws: Sequence[Draw]) -> Batch:
        """Read the samples of one batch."""
        samples = [self.datasets[draw.dataset][draw] for draw in draws]
        return collate_unlike(samples) if self.pack else collate(samples)
