"""Build shards of exact edits from clips: windows inside shots, times edits, times masks.

A pure function of the configuration: the same one gives the same bytes. A shard appears whole or
not at all, and a second run keeps the shards that are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch

from vedit.data.index import INDEX_NAME, ShardIndex, read_index, write_index
from vedit.data.lock import check_free, writing
from vedit.data.shards import Entry, scan_shard, shard_name, write_shard
from vedit.engine.build_config import BuildConfig
from vedit.engine.samples import samples
from vedit.engine.source_windows import Window, choose_windows
from vedit.errors import DataError

SETTINGS_NAME = "build.json"


def build(config: BuildConfig, progress: Callable[[str], None] = print) -> ShardIndex:
    """Write the shards and their index.

    Args:
        config: What to build.
        progress: Receives one line per shard.

    Returns:
        The index of all samples.

    Raises:
        DataError: The clips hold no such windows, the output holds shards of other settings, or
            another process is writing there.
    """
    output = Path(config.output)
    if output.is_dir():
        check_free(output)  # choosing windows may take minutes
    windows = choose_windows(config)
    output.mkdir(parents=True, exist_ok=True)
    with writing(output, "vedit data build"):
        return _build(config, windows, output, progress)


def _build(
    config: BuildConfig, windows: list[Window], output: Path, progress: Callable[[str], None]
) -> ShardIndex:
    _claim(output, config, windows)
    total = len(windows) * config.samples_per_window
    count = -(-total // config.shard_size)
    names = [shard_name(config.split, number) for number in range(count)]
    entries = _kept(output, names)
    done = sum(map(len, entries.values()))
    if done:
        progress(f"keeping {len(entries)} of {count} shards ({done} samples)")
    for number, found in _built(
        config, windows, [i for i in range(count) if names[i] not in entries]
    ):
        entries[names[number]] = found
        done += len(found)
        progress(f"{names[number]}: {len(found)} samples ({done}/{total})")
    return write_index(output, (e for name in names for e in entries[name]), names)


def _claim(output: Path, config: BuildConfig, windows: list[Window]) -> None:
    """Refuse to mix shards of two configurations, or of other clips, in one folder."""
    left_out = {"clips", "output", "workers"}
    if config.transition_fraction == 0:  # as folders say that were built before there were any
        left_out |= {"transition_fraction", "transition_blend"}
    settings = {k: v for k, v in asdict(config).items() if k not in left_out}
    places = [(w.clip.name, w.start, w.stride) for w in windows]
    settings["clips"] = hashlib.sha256(repr(places).encode()).hexdigest()[:16]
    text = json.dumps(settings, default=str, indent=1)
    path = output / SETTINGS_NAME
    if path.is_file() and path.read_text() != text:
        before = json.loads(path.read_text())
        other = [k for k, v in json.loads(text).items() if before.get(k) != v]
        raise DataError(
            f"{output}: was built with other {', '.join(other)}; choose another output "
            "or delete it."
        )
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _kept(output: Path, names: list[str]) -> dict[str, list[Entry]]:
    """Entries of the shards that a former run has finished."""
    entries: dict[str, list[Entry]] = {}
    if (output / INDEX_NAME).is_file() and all((output / n).is_file() for n in names):
        for entry in read_index(output).entries:
            entries.setdefault(entry.shard, []).append(entry)
    for name in names:
        if name not in entries and (output / name).is_file():
            entries[name] = scan_shard(output / name)
    return entries


def _built(
    config: BuildConfig, windows: list[Window], numbers: list[int]
) -> Iterator[tuple[int, list[Entry]]]:
    if config.workers < 1 or len(numbers) < 2:
        for number in numbers:
            yield number, build_shard(config, windows, number)
        return
    with ProcessPoolExecutor(config.workers, get_context("spawn"), _start_worker) as pool:
        jobs = {pool.submit(build_shard, config, windows, n): n for n in numbers}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def _start_worker() -> None:
    """Make a process that builds shards; the number of workers is the parallelism."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Write nothing once the holder of the folder's lock is gone, even if it was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build_shard(config: BuildConfig, windows: list[Window], number: int) -> list[Entry]:
    """Write one shard.

    Args:
        config: What to build.
        windows: All of its source windows.
        number: Of the shard.

    Returns:
        Its samples.
    """
    first = number * config.shard_size
    stop = min(first + config.shard_size, len(windows) * config.samples_per_window)
    made = samples(config, windows, first, stop)
    return write_shard(Path(config.output) / shard_name(config.split, number), made)
