"""Compute latents and text features once, and store them as safetensors beside each shard.

``SHARD.latents.safetensors`` holds the codec's output, ``SHARD.features.safetensors`` the features
of the context encoder's frozen part, by the keys of `vedit.data.cache_keys`. Each file carries the
fingerprint of what made it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vedit.data.cache_keys import (
    Kind,
    cache_path,
    images_read,
    latent_key,
    latent_keys,
    members_named,
    text_key,
    text_keys,
)
from vedit.data.index import ShardIndex, read_index
from vedit.data.lock import writing
from vedit.data.media import decode_image, decode_member
from vedit.data.schema import RECORD
from vedit.data.shards import Entry, ShardReader
from vedit.references import is_reference


class Encodes(Protocol):
    """What the cache asks of a codec, see `vedit.codecs`."""

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to latents (B, C, t, h, w)."""

    def fingerprint(self) -> str:
        """Digest of configuration and weights."""


class Reads(Protocol):
    """What the cache asks of a context encoder, see `vedit.context`.

    An encoder whose features depend on images names them in ``reads_images``, such as
    ``("source", "reference")``; without the attribute they depend on the instruction alone.
    """

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Features by name, batch first."""

    def fingerprint(self) -> str:
        """Digest of configuration and weights."""


def encode_shards(
    directory: str | Path,
    codec: Encodes | None = None,
    context_encoder: Reads | None = None,
    *,
    batch_size: int = 8,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[str], None] = print,
) -> None:
    """Compute what is missing or stale; a shard that is done is kept.

    Args:
        directory: Folder of indexed shards.
        codec: Encodes source, target, mask and references (letterboxed, one frame) if given.
        context_encoder: Its features of every wording are stored if given.
        batch_size: Clips or wordings of one shape encoded at once.
        dtype: Type in which tensors are stored; float32 gives what encoding on the fly gives.
        progress: Receives one line per shard.

    Raises:
        DataError: The shards are not indexed, or damaged, or another process is writing there.
    """
    index = read_index(directory)
    with writing(directory, "vedit data encode"):
        _encode_index(index, codec, context_encoder, batch_size, dtype, progress)


def _encode_index(
    index: ShardIndex,
    codec: Encodes | None,
    context_encoder: Reads | None,
    batch_size: int,
    dtype: torch.dtype,
    progress: Callable[[str], None],
) -> None:
    reader = ShardReader(index.directory)
    by_shard: dict[str, list[Entry]] = {}
    for entry in index.entries:
        by_shard.setdefault(entry.shard, []).append(entry)
    jobs: list[tuple[Kind, Any, Callable[..., dict[str, Tensor]], Callable[..., set[str]]]] = []
    if codec is not None:
        jobs.append(("latents", codec, _encode_latents, lambda e: latent_keys(e)))
    if context_encoder is not None:
        reads = images_read(context_encoder)
        jobs.append(("features", context_encoder, _encode_features, lambda e: text_keys(e, reads)))
    for kind, encoder, encode, keys_of in jobs:
        fingerprint = encoder.fingerprint()
        for number, (shard, entries) in enumerate(by_shard.items(), 1):
            path = cache_path(index.directory / shard, kind)
            wanted = set().union(*(keys_of(e) for e in entries))
            if _is_current(path, fingerprint, wanted):
                continue
            tensors = encode(encoder, reader, entries, batch_size)
            _save(path, tensors, fingerprint, dtype)
            progress(f"{path.name}: {len(wanted)} {kind} ({number}/{len(by_shard)})")
    reader.close()


def _encode_latents(
    codec: Encodes, reader: ShardReader, entries: list[Entry], batch_size: int
) -> dict[str, Tensor]:
    """Latents by key; equal members once, clips of one shape together."""
    members = {
        latent_key(entry, suffix): (entry, suffix)
        for entry in entries
        for suffix in entry.record.members
        if suffix != RECORD
    }
    tensors: dict[str, Tensor] = {}
    waiting: dict[tuple[int, ...], list[tuple[str, Tensor]]] = {}

    def flush(batch: list[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            latents = codec.encode(torch.stack([clip for _, clip in batch]).to(_device_of(codec)))
        tensors.update({key: z for (key, _), z in zip(batch, latents.cpu(), strict=True)})
        batch.clear()

    for key, (entry, suffix) in members.items():
        clip = decode_member(reader, entry, suffix)
        batch = waiting.setdefault(tuple(clip.shape), [])
        batch.append((key, clip))
        if len(batch) == batch_size:
            flush(batch)
    for batch in waiting.values():
        if batch:
            flush(batch)
    return tensors


def _encode_features(
    encoder: Reads, reader: ShardReader, entries: list[Entry], batch_size: int
) -> dict[str, Tensor]:
    """Features by "key/name", what would be computed twice once."""
    reads = images_read(encoder)
    wanted = {
        text_key(e, text, reads): (e, text) for e in entries for text in e.record.instructions
    }
    tensors: dict[str, Tensor] = {}
    for batch in _alike(wanted, reader, reads, batch_size):
        seen = [_seen(reader, wanted[key][0], reads) for key in batch]
        images = {n: torch.stack([s[n] for s in seen]).to(_device_of(encoder)) for n in seen[0]}
        with torch.no_grad():
            features = encoder.features([wanted[key][1] for key in batch], images)
        for name, values in features.items():
            for key, value in zip(batch, values.cpu(), strict=True):
                tensors[f"{key}/{name}"] = value
    return tensors


def _alike(
    wanted: Mapping[str, tuple[Entry, str]],
    reader: ShardReader,
    reads: Sequence[str],
    batch_size: int,
) -> Iterator[list[str]]:
    """Batches of keys; where images are read, those of one batch have one shape."""
    groups: dict[object, list[str]] = {}
    shapes: dict[str, object] = {}
    for key, (entry, _) in wanted.items():
        if entry.key not in shapes:
            shapes[entry.key] = _shapes(reader, entry, reads)
        groups.setdefault(shapes[entry.key], []).append(key)
    for keys in groups.values():
        for i in range(0, len(keys), batch_size):
            yield keys[i : i + batch_size]


def _shapes(reader: ShardReader, entry: Entry, reads: Sequence[str]) -> object:
    """Of what an encoder looks at; only references have to be read for it, one after the other."""
    members, record = members_named(entry, reads), entry.record
    video = (record.frames, record.height, record.width) if members else None
    return video, tuple(
        (suffix, decode_image(reader, entry, suffix).shape if is_reference(suffix) else None)
        for suffix in members
    )


def _seen(reader: ShardReader, entry: Entry, reads: Sequence[str]) -> dict[str, Tensor]:
    """What an encoder looks at: videos (3, F, H, W), and references (3, 1, h, w) as they are."""
    return {
        suffix.rpartition(".")[0]: decode_image(reader, entry, suffix).unsqueeze(1)
        if is_reference(suffix)
        else decode_member(reader, entry, suffix)
        for suffix in members_named(entry, reads)
    }


def _device_of(module: object) -> torch.device:
    parameters = getattr(module, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return torch.device("cpu") if first is None else first.device


def _is_current(path: Path, fingerprint: str, wanted: set[str]) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            made_by = (file.metadata() or {}).get("fingerprint")
            names = file.keys()
            return made_by == fingerprint and wanted <= {k.partition("/")[0] for k in names}
    except (OSError, SafetensorError):
        return False


def _save(path: Path, tensors: dict[str, Tensor], fingerprint: str, dtype: torch.dtype) -> None:
    """Write at once; padding at the end of features is left out and put back on reading."""
    lengths: dict[str, int] = {}
    for key, value in tensors.items():
        name = key.partition("/")[2]
        if name:
            lengths[name] = max(lengths.get(name, 0), len(value) if value.ndim else 0)
    stored = {
        key: (_trimmed(value) if "/" in key else value).to(
            dtype if value.is_floating_point() else value.dtype
        ).contiguous()
        for key, value in tensors.items()
    }  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    save_file(stored, partial, {"fingerprint": fingerprint, "lengths": json.dumps(lengths)})
    os.replace(partial, path)


def _trimmed(value: Tensor) -> Tensor:
    """Drop zeros (or False) at the end of the first dimension."""
    if value.numel() == 0 or value.ndim == 0:
        return value
    used = value.reshape(len(value), -1).ne(0).any(1).nonzero()
    return value[: int(used[-1]) + 1] if len(used) else value[:0]
