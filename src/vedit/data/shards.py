"""Plain tar shards in WebDataset's layout: written whole, read at random.

Any tool for WebDataset reads these tars, and tars made by other tools are read here.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vedit.data.schema import MASK, RECORD, SOURCE, TARGET, SampleRecord
from vedit.errors import DataError
from vedit.references import reference_name
from vedit.video import NamedBytes, probe

_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """Where the bytes of one member lie in its shard, and their digest."""

    offset: int
    size: int
    digest: str


@dataclass(frozen=True)
class Entry:
    """One sample of a shard: its record and where its members are."""

    shard: str
    record: SampleRecord
    members: Mapping[str, Member]

    @property
    def key(self) -> str:
        """Name of the sample."""
        return self.record.key


@dataclass(frozen=True)
class Sample:
    """The encoded members of a sample, ready to write."""

    record: SampleRecord
    source: bytes
    target: bytes
    mask: bytes | None = None
    references: tuple[bytes, ...] = ()

    def members(self) -> dict[str, bytes]:
        """Bytes of each member by suffix.

        Returns:
            Suffix to bytes, in the order in which they are written; the record comes last.

        Raises:
            DataError: The record promises a mask or reference that is absent, or the reverse.
        """
        content = {SOURCE: self.source, TARGET: self.target}
        if self.mask is not None:
            content[MASK] = self.mask
        content |= {f"{reference_name(i)}.png": png for i, png in enumerate(self.references)}
        content[RECORD] = self.record.to_json().encode()
        if tuple(content) != self.record.members:
            raise DataError(
                f"{self.record.key}: the record promises {', '.join(self.record.members)}, "
                f"the sample has {', '.join(content)}."
            )
        return content


def content_digest(data: bytes) -> str:
    """128 bits of SHA-256, in hex: equal members are encoded to latents once."""
    return hashlib.sha256(data).hexdigest()[:32]


def shard_name(split: str, number: int) -> str:
    """``train-000012.tar``."""
    return f"{split}-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[Sample]) -> list[Entry]:
    """Write a shard; it has its name only once it is complete. Equal samples, equal bytes.

    Args:
        path: The file to write; its folder is made.
        samples: In the order in which they lie in the shard.

    Returns:
        One entry per sample.

    Raises:
        DataError: A key occurs twice, or a sample contradicts its record.
    """
    entries: list[Entry] = []
    keys: set[str] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                sample.record.validate(f"{path.name}: {sample.record.key}")
                if sample.record.key in keys:
                    raise DataError(f"{path.name}: key {sample.record.key} occurs twice.")
                keys.add(sample.record.key)
                members = {
                    suffix: _append(tar, f"{sample.record.key}.{suffix}", data)
                    for suffix, data in sample.members().items()
                }
                entries.append(Entry(path.name, sample.record, members))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return entries


def scan_shard(path: Path) -> list[Entry]:
    """Read a shard from end to end and check every sample in it.

    Args:
        path: A tar.

    Returns:
        One entry per sample.

    Raises:
        DataError: The shard is cut off, a member is missing, doubled or apart from its sample,
            a record is wrong, or source, target and mask differ in length or size.
    """
    entries: list[Entry] = []
    for key, members in _groups(path):
        where = f"{path.name}: {key}"
        if RECORD not in members:
            raise DataError(f"{where}: {key}.{RECORD} is missing.")
        record = SampleRecord.from_json(members[RECORD][1], f"{where}.{RECORD}")
        if record.key != key:
            raise DataError(f"{where}: its record has the key '{record.key}'.")
        for suffix in record.members:
            if suffix not in members:
                raise DataError(f"{where}: {key}.{suffix} is missing.")
        for suffix in members:
            if suffix not in record.members:
                raise DataError(
                    f"{where}: member {key}.{suffix} is not announced by its record; "
                    "set has_mask, has_reference or more_references, or leave it out."
                )
        for suffix in (SOURCE, TARGET, MASK):
            if suffix in members:
                _check_video(members[suffix][1], record, suffix, path.name)
        entries.append(Entry(path.name, record, {s: m for s, (m, _) in members.items()}))
    return entries


class ShardReader:
    """Random access to the members of the shards in a folder.

    File handles are opened per process, so the reader may cross into data-loading workers.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._files: dict[str, int] = {}
        self._process = os.getpid()

    def read(self, entry: Entry, suffix: str) -> NamedBytes:
        """Read one member.

        Args:
            entry: The sample.
            suffix: Of the member, such as ``source.mp4``.

        Returns:
            Its bytes, named after shard and member.

        Raises:
            DataError: The shard is missing, or its bytes are not those that were indexed.
        """
        name = f"{self.directory / entry.shard}: {entry.key}.{suffix}"
        if suffix not in entry.members:
            raise DataError(f"{name}: there is no such member.")
        member = entry.members[suffix]
        data = os.pread(self._handle(entry.shard), member.size, member.offset)
        if content_digest(data) != member.digest:
            raise DataError(
                f"{name}: the bytes differ from the index; "
                f"run `vedit data index {self.directory}` if the shard was replaced."
            )
        return NamedBytes(data, name)

    def close(self) -> None:
        """Close the shards."""
        if self._process == os.getpid():
            for handle in self._files.values():
                os.close(handle)
        self._files = {}

    def _handle(self, shard: str) -> int:
        if self._process != os.getpid():
            self._files, self._process = {}, os.getpid()
        if shard not in self._files:
            try:
                self._files[shard] = os.open(self.directory / shard, os.O_RDONLY)
            except OSError as error:
                raise DataError(f"{self.directory / shard}: the shard is missing.") from error
        return self._files[shard]

    def __getstate__(self) -> dict[str, object]:
        """Leave the handles behind."""
        return {"directory": self.directory, "_files": {}, "_process": -1}

    def __del__(self) -> None:
        """Do not leak handles."""
        self.close()


# --- tar details ---------------------------------------------------------------------------


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    offset = tar.offset + _BLOCK  # USTAR: one header block, as names are short
    tar.addfile(info, io.BytesIO(data))
    return Member(offset, len(data), content_digest(data))


def _groups(path: Path) -> Iterator[tuple[str, dict[str, tuple[Member, bytes]]]]:
    """Yield each key with its members; a cut-off shard is an error, not a short one."""
    current = last = None
    members: dict[str, tuple[Member, bytes]] = {}
    done: set[str] = set()
    try:
        for name, member, data in _tar_members(path):
            key, _, suffix = name.rpartition("/")[2].partition(".")
            suffix = suffix.lower()
            if key != current:
                if current is not None:
                    yield current, members
                    done.add(current)
                    last = current
                if key in done:
                    raise DataError(
                        f"{path.name}: {name} is apart from the other members of its sample; "
                        "members of a sample must be adjacent."
                    )
                current, members = key, {}
            if suffix in members:
                raise DataError(f"{path.name}: {name} occurs twice.")
            members[suffix] = (member, data)
    except tarfile.ReadError as error:
        last = current if RECORD in members else last
        whole = f"the last whole sample is {last}" if last else "it has no whole sample"
        raise DataError(
            f"{path.name}: the shard is cut off or damaged ({error}); {whole}. "
            "Copy it again, or delete it and run `vedit data build`, which keeps the whole ones."
        ) from error
    if current is not None:
        yield current, members


def _tar_members(path: Path) -> Iterator[tuple[str, Member, bytes]]:
    size = path.stat().st_size
    end = 0
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
            if info.offset_data + info.size > size:
                raise tarfile.ReadError("unexpected end of data")
            file = tar.extractfile(info) if info.isfile() else None
            if file is None:
                continue
            data = file.read()
            yield info.name, Member(info.offset_data, info.size, content_digest(data)), data
    with path.open("rb") as raw:
        raw.seek(end)
        if raw.read(_BLOCK) != bytes(_BLOCK):  # a whole tar ends in blocks of zeros
            raise tarfile.ReadError("no end mark")


def _check_video(data: bytes, record: SampleRecord, suffix: str, shard: str) -> None:
    info = probe(NamedBytes(data, f"{shard}: {record.key}.{suffix}"))
    found = (info.frames, info.height, info.width)
    stated = (record.frames, record.height, record.width)
    if found != stated:
        raise DataError(
            f"{shard}: {record.key}.{suffix} has {_shape(found)}, its record says "
            f"{_shape(stated)}; source, target and mask must agree."
        )


def _shape(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
