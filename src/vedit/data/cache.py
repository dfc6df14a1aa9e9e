"""Read what `vedit.data.encode` has computed, mapped into memory.

A file made by another codec or context encoder is an error, never a silent mismatch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vedit.data.cache_keys import (
    Kind,
    cache_path,
    latent_key,
    latent_keys,
    text_key,
    text_keys,
)
from vedit.data.shards import Entry
from vedit.errors import DataError


@dataclass(frozen=True)
class CacheStatus:
    """What a folder's cache holds of what its samples need."""

    present: int
    needed: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.present == self.needed


class CacheReader:
    """Cached tensors of a folder of shards, mapped into memory.

    Args:
        directory: Folder of shards.
        kind: Latents or features.
        fingerprint: What must have made them; None accepts any.
    """

    def __init__(self, directory: str | Path, kind: Kind, fingerprint: str | None = None) -> None:
        self.directory, self.kind, self.fingerprint = Path(directory), kind, fingerprint
        self._open: dict[str, tuple[Any, dict[str, int], str]] = {}

    def status(self, entries: Iterable[Entry], reads: Sequence[str] = ()) -> CacheStatus:
        """Count how many of the samples can be served.

        A file that holds nothing of a sample was made for another kind of encoder, which reads
        other images: it is passed over, whatever its fingerprint.

        Args:
            entries: samples of the folder.
            reads: names of the images that features depend on.

        Returns:
            Samples whose tensors are all there, and samples in all.

        Raises:
            DataError: A file is stale or damaged.
        """
        names: dict[str, set[str]] = {}
        present = needed = 0
        for entry in entries:
            if entry.shard not in names:
                exists = cache_path(self.directory / entry.shard, self.kind).is_file()
                keys = self._opened(entry.shard)[0].keys() if exists else []
                names[entry.shard] = {key.partition("/")[0] for key in keys}
            keys_of = latent_keys(entry) if self.kind == "latents" else text_keys(entry, reads)
            if keys_of & names[entry.shard]:
                self._file(entry.shard)
            needed += 1
            present += keys_of <= names[entry.shard]
        return CacheStatus(present, needed)

    def latents(self, entry: Entry, suffix: str) -> Tensor:
        """Latents of one member.

        Args:
            entry: the sample.
            suffix: of the member, such as ``source.mp4``.

        Returns:
            (C, t, h, w), in the type in which they are stored.

        Raises:
            DataError: They are missing, stale or damaged.
        """
        return self._tensor(entry, latent_key(entry, suffix))

    def features(self, entry: Entry, text: str, reads: Sequence[str] = ()) -> dict[str, Tensor]:
        """Features of one wording.

        Args:
            entry: the sample.
            text: the wording.
            reads: names of the images that the features depend on.

        Returns:
            Tensors by name, without the batch dimension.

        Raises:
            DataError: They are missing, stale or damaged.
        """
        key = text_key(entry, text, reads)
        _, lengths = self._file(entry.shard)
        return {
            name: _padded(self._tensor(entry, f"{key}/{name}"), length)
            for name, length in lengths.items()
        }

    def _tensor(self, entry: Entry, key: str) -> Tensor:
        file, _ = self._file(entry.shard)
        try:
            return file.get_tensor(key)
        except SafetensorError as error:
            raise DataError(
                f"{entry.shard}: {entry.key} has no cached {self.kind}; {self._fix()}."
            ) from error

    def _file(self, shard: str) -> tuple[Any, dict[str, int]]:
        """An open file that the right encoder made, and the lengths of its features."""
        file, lengths, made_by = self._opened(shard)
        if self.fingerprint is not None and made_by != self.fingerprint:
            raise DataError(
                f"{cache_path(self.directory / shard, self.kind)}: stale, made by "
                f"{made_by[:12]}..., the model has {self.fingerprint[:12]}...; {self._fix()}."
            )
        return file, lengths

    def _opened(self, shard: str) -> tuple[Any, dict[str, int], str]:
        if shard not in self._open:
            path = cache_path(self.directory / shard, self.kind)
            try:
                file = safe_open(path, framework="pt")
                metadata = file.metadata() or {}
            except FileNotFoundError as error:
                raise DataError(f"{path}: no cached {self.kind}; {self._fix()}.") from error
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path}: damaged ({error}); {self._fix()}.") from error
            lengths = json.loads(metadata.get("lengths", "{}"))
            self._open[shard] = (file, lengths, metadata.get("fingerprint", ""))
        return self._open[shard]

    def _fix(self) -> str:
        return f"run `vedit data encode {self.directory}` with this model's config"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files behind."""
        return {**self.__dict__, "_open": {}}


def _padded(value: Tensor, length: int) -> Tensor:
    if value.ndim == 0 or len(value) == length:
        return value
    whole = value.new_zeros(length, *value.shape[1:])
    whole[: len(value)] = value
    return whole
