"""The index of a folder of shards: every sample and where its members lie.

``index.jsonl`` begins with one line about the shards; each further line is a sample. It is made
while shards are written, and `build_index` makes it for shards from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vedit.data.lock import writing
from vedit.data.schema import SampleRecord
from vedit.data.shards import Entry, Member, scan_shard
from vedit.errors import DataError

INDEX_NAME = "index.jsonl"
_VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a folder, in the order of its shards."""

    directory: Path
    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)


def read_index(directory: str | Path) -> ShardIndex:
    """Read the index of a folder of shards.

    Args:
        directory: Folder of shards.

    Returns:
        Its samples.

    Raises:
        DataError: There is no index, it is damaged, or a shard was removed or replaced since.
    """
    directory = Path(directory)
    path = directory / INDEX_NAME
    fix = f"run `vedit data index {directory}`"
    if not path.is_file():
        raise DataError(f"{directory}: no {INDEX_NAME} here; {fix} if it holds shards.")
    sizes, entries = _read(path)
    for name, size in sizes.items():
        shard = directory / name
        if not shard.is_file():
            raise DataError(f"{shard}: indexed, but missing; {fix}.")
        if shard.stat().st_size != size:
            raise DataError(
                f"{shard}: has {shard.stat().st_size} bytes, the index says {size}; it was "
                f"replaced or is cut off: {fix}."
            )
    return ShardIndex(directory, tuple(entries))


def build_index(directory: str | Path, progress: Callable[[str], None] = print) -> ShardIndex:
    """Index the shards of a folder, checking every sample of those that are new or changed.

    Args:
        directory: Folder of shards.
        progress: Receives one line per shard that is read.

    Returns:
        The index that was written.

    Raises:
        DataError: There are no shards, a shard is damaged, a key occurs twice, or another process
            is writing there.
    """
    directory = Path(directory)
    shards = sorted(directory.glob("*.tar"))
    if not shards:
        raise DataError(f"{directory}: no .tar shards here.")
    with writing(directory, "vedit data index"):
        return _index_shards(directory, shards, progress)


def _index_shards(
    directory: Path, shards: Sequence[Path], progress: Callable[[str], None]
) -> ShardIndex:
    known: dict[str, list[Entry]] = {}
    sizes: dict[str, int] = {}
    if (directory / INDEX_NAME).is_file():
        try:
            sizes, entries = _read(directory / INDEX_NAME)
        except DataError as error:
            progress(f"{error} Indexing anew.")
            sizes, entries = {}, []
        for entry in entries:
            known.setdefault(entry.shard, []).append(entry)
    rows: list[Entry] = []
    for shard in shards:
        if sizes.get(shard.name) == shard.stat().st_size:
            rows += known.get(shard.name, [])
            continue
        found = scan_shard(shard)
        progress(f"{shard.name}: {len(found)} samples")
        rows += found
    return write_index(directory, rows, [s.name for s in shards])


def write_index(
    directory: str | Path, entries: Iterable[Entry], shards: Sequence[str]
) -> ShardIndex:
    """Write the index of a folder at once.

    Args:
        directory: Folder of shards.
        entries: Samples in the order of the shards.
        shards: Names of all shards, also of those without a sample.

    Returns:
        The index that was written.

    Raises:
        DataError: A key occurs in two shards.
    """
    directory = Path(directory)
    rows = tuple(entries)
    seen: dict[str, str] = {}
    for entry in rows:
        if entry.key in seen:
            raise DataError(
                f"{directory}: key {entry.key} is in {seen[entry.key]} and in {entry.shard}."
            )
        seen[entry.key] = entry.shard
    head = {
        "version": _VERSION,
        "shards": {name: (directory / name).stat().st_size for name in shards},
    }
    partial = directory / (INDEX_NAME + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head) + "\n")
        for entry in rows:
            file.write(json.dumps(_to_row(entry), ensure_ascii=False) + "\n")
    os.replace(partial, directory / INDEX_NAME)
    return ShardIndex(directory, rows)


def _to_row(entry: Entry) -> dict[str, object]:
    members = {s: [m.offset, m.size, m.digest] for s, m in entry.members.items()}
    return {"shard": entry.shard, "members": members, "record": asdict(entry.record)}


def _read(path: Path) -> tuple[dict[str, int], list[Entry]]:
    number = 1
    try:
        with path.open(encoding="utf-8") as file:
            head = json.loads(next(file, "{}"))
            if head.get("version") != _VERSION:
                raise DataError(
                    f"{path}: version {head.get('version')}, expected {_VERSION}; "
                    f"run `vedit data index {path.parent}`."
                )
            entries = []
            for number, line in enumerate(file, 2):
                row = json.loads(line)
                record = SampleRecord.from_dict(row["record"], f"{path.name} line {number}")
                members = {s: Member(*m) for s, m in row["members"].items()}
                entries.append(Entry(row["shard"], record, members))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: line {number} is damaged; run `vedit data index {path.parent}`."
        ) from error
    return dict(head["shards"]), entries
