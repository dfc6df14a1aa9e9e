"""Build shards of exact edits from clips: windows inside shots, times edits, times masks.

A pure function of the configuration: the same one gives the same bytes. A shard appears whole or
not at all, and a second run keeps the shards that are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from vedit.data.clips import clip_spans
from vedit.data.index import INDEX_NAME, ShardIndex, read_index, write_index
from vedit.data.lock import check_free, writing
from vedit.data.schema import SampleRecord
from vedit.data.shards import Entry, Sample, scan_shard, shard_name, write_shard
from vedit.data.shots import Shot, cut_shots
from vedit.engine.experts import Expert, expert, experts
from vedit.engine.experts.apply import apply_edit, local_instruction
from vedit.engine.masks import KINDS, sample_mask
from vedit.errors import ConfigError, DataError
from vedit.video import NamedBytes, WindowReader, encode_video, read_video

SETTINGS_NAME = "build.json"


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        clips: Folder of videos, see `vedit.data.clips.clip_spans`.
        output: Folder for the shards of this split.
        split: "train" draws windows at random; any other split spreads them evenly, so that a
            held-out set is the same whatever the seed.
        edits: Names of edits or class paths, or "all" that ship.
        windows: Number of source windows.
        edits_per_window: How many of the edits each window gets, in turn; None gives it all.
        frames: Length of a window.
        height: Pixels.
        width: Pixels.
        strides: Frame steps to choose from.
        masked_fraction: Share of samples whose edit is limited to a random region.
        mask_kinds: Shapes of the regions.
        mask_area: Smallest and largest share of the frame that a region covers.
        reference: Write one frame of the target as a reference image.
        wordings: "all" wordings of an instruction, "seen" for all but the last, "holdout" for
            the last alone, or a list of their numbers.
        seed: Everything random follows from it.
        shard_size: Samples in a shard.
        crf: H.264 quality of source and target, 0 is lossless but for the colour conversion.
        workers: Processes that build shards; 0 builds in this one.
    """

    clips: Path
    output: Path
    split: str = "train"
    edits: list[str] | Literal["all"] = "all"
    windows: int = 100
    edits_per_window: int | None = None
    frames: int = 9
    height: int = 64
    width: int = 112
    strides: list[int] = field(default_factory=lambda: [1, 2])
    masked_fraction: float = 0.0
    mask_kinds: list[str] = field(default_factory=lambda: list(KINDS))
    mask_area: tuple[float, float] = (0.1, 0.5)
    reference: bool = False
    wordings: list[int] | Literal["all", "seen", "holdout"] = "all"
    seed: int = 0
    shard_size: int = 256
    crf: int = 4
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: A value out of range.
        """
        for name in ("windows", "frames", "height", "width", "shard_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1.")
        if not self.strides or min(self.strides) < 1:
            raise ConfigError(f"strides: got {self.strides}, expected positive frame steps.")
        if not 0 <= self.masked_fraction <= 1:
            raise ConfigError(f"masked_fraction: got {self.masked_fraction}, expected 0 to 1.")
        chosen = len(self.chosen)
        if self.edits_per_window is not None and not 1 <= self.edits_per_window <= chosen:
            raise ConfigError(
                f"edits_per_window: got {self.edits_per_window}, expected 1 to {chosen}, "
                "the number of edits."
            )
        for edit in self.chosen:
            self.wording_numbers(expert(edit))

    @property
    def chosen(self) -> list[str]:
        """Names of the edits to apply."""
        return list(experts()) if self.edits == "all" else list(self.edits)

    @property
    def samples_per_window(self) -> int:
        """How many samples share a source."""
        return self.edits_per_window or len(self.chosen)

    def wording_numbers(self, edit: Expert) -> list[int]:
        """Which wordings of an edit's instruction to write.

        Raises:
            ConfigError: An edit has no wording of such a number.
        """
        count = len(edit.instructions)
        named = {"all": range(count), "seen": range(count - 1), "holdout": [count - 1]}
        numbers = self.wordings if isinstance(self.wordings, list) else named[self.wordings]
        if not numbers or not all(0 <= n < count for n in numbers):
            raise ConfigError(
                f"wordings: got {self.wordings}, edit {edit.name} has {count}: 0 to {count - 1}."
            )
        return list(numbers)


@dataclass(frozen=True, order=True)
class Window:
    """Frames ``start, start + stride, ...`` of a clip."""

    clip: Path
    start: int
    stride: int


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


def choose_windows(config: BuildConfig) -> list[Window]:
    """Choose the source windows; each lies inside one shot.

    Raises:
        DataError: No shot of the split's clips is long enough.
    """
    runs: list[tuple[Path, int, list[Shot]]] = []  # one per clip and stride
    for clip, shots in _shots_by_clip(config).items():
        for stride in config.strides:
            length = (config.frames - 1) * stride + 1
            long = [Shot(s.start, s.stop - length + 1) for s in shots if len(s) >= length]
            if long:  # shots of starts, no longer of frames
                runs.append((clip, stride, long))
    if not runs:
        raise DataError(
            f"{config.clips}: no shot of split '{config.split}' is long enough for "
            f"{config.frames} frames at strides {config.strides}."
        )
    return _drawn(runs, config) if config.split == "train" else _spread(runs, config)


def _shots_by_clip(config: BuildConfig) -> dict[Path, list[Shot]]:
    shots: dict[Path, list[Shot]] = {}
    for clip, span in clip_spans(Path(config.clips), config.split):
        for shot in cut_shots(clip):
            start = max(shot.start, span.start)
            stop = shot.stop if span.stop is None else min(shot.stop, span.stop)
            if start < stop:
                shots.setdefault(clip, []).append(Shot(start, stop))
    return shots


def _drawn(runs: list[tuple[Path, int, list[Shot]]], config: BuildConfig) -> list[Window]:
    """Draw windows; every start is as likely, so long clips give more.

    They are sorted, so that a shard reads one stretch of a clip: training shuffles anyway.
    """
    generator = _generator(config.seed, "windows")
    by_stride = {s: [r for r in runs if r[1] == s] for s in {r[1] for r in runs}}
    strides = [s for s in config.strides if s in by_stride]
    windows = []
    for _ in range(config.windows):
        chosen = by_stride[strides[_integer(generator, len(strides))]]
        place = _integer(generator, sum(len(s) for _, _, shots in chosen for s in shots))
        windows.append(_at(chosen, place))
    return sorted(windows)


def _spread(runs: list[tuple[Path, int, list[Shot]]], config: BuildConfig) -> list[Window]:
    """Take the clips in turn, the starts of each evenly spaced over its shots."""
    clips = sorted({clip for clip, _, _ in runs})
    windows = []
    for i in range(config.windows):
        turn, clip = divmod(i, len(clips))
        usable = [r for r in runs if r[0] == clips[clip]]
        run = usable[turn % len(usable)]
        turns = -(-(config.windows - clip) // len(clips))
        places = sum(map(len, run[2]))
        windows.append(_at([run], (2 * turn + 1) * places // (2 * turns)))
    return windows


def _at(runs: list[tuple[Path, int, list[Shot]]], place: int) -> Window:
    for clip, stride, shots in runs:
        for shot in shots:
            if place < len(shot):
                return Window(clip, shot.start + place, stride)
            place -= len(shot)
    raise IndexError(place)


# --- shards --------------------------------------------------------------------------------


def _claim(output: Path, config: BuildConfig, windows: list[Window]) -> None:
    """Refuse to mix shards of two configurations, or of other clips, in one folder."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("clips", "output", "workers")}
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
    with ProcessPoolExecutor(config.workers, get_context("spawn"), _one_thread) as pool:
        jobs = {pool.submit(build_shard, config, windows, n): n for n in numbers}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Write nothing once the holder of the folder's lock is gone, even if it was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def build_shard(config: BuildConfig, windows: list[Window], number: int) -> list[Entry]:
    """Write one shard; see `build`."""
    first = number * config.shard_size
    total = len(windows) * config.samples_per_window
    samples = _samples(config, windows, first, min(first + config.shard_size, total))
    return write_shard(Path(config.output) / shard_name(config.split, number), samples)


def _samples(config: BuildConfig, windows: list[Window], first: int, stop: int) -> Iterator[Sample]:
    order = torch.randperm(len(config.chosen), generator=_generator(config.seed, "edits")).tolist()
    edits = [expert(config.chosen[i]) for i in order]
    per_window = config.samples_per_window
    current, source, video, fps = -1, b"", torch.empty(0), Fraction(1)
    readers: dict[Path, WindowReader] = {}
    for i in range(first, stop):
        window = windows[i // per_window]
        if i // per_window != current:
            current = i // per_window
            if window.clip not in readers:
                readers = {window.clip: WindowReader(window.clip, (config.height, config.width))}
            source, video, fps = _source(window, readers[window.clip], config)
        edit = edits[i % len(edits)]
        yield _sample(f"{config.split}-{i:07d}", window, edit, source, video, fps, config)


def _source(
    window: Window, reader: WindowReader, config: BuildConfig
) -> tuple[bytes, Tensor, Fraction]:
    """The encoded window, and the pixels that a reader of it will see."""
    fps = reader.fps / window.stride
    data = encode_video(reader.read(window.start, config.frames, window.stride), fps, config.crf)
    pixels = read_video(NamedBytes(data, "source")).frames
    return data, to_signed(pixels), fps


def _sample(
    key: str,
    window: Window,
    edit: Expert,
    source: bytes,
    video: Tensor,
    fps: Fraction,
    config: BuildConfig,
) -> Sample:
    generator = _generator(config.seed, key)
    masked = float(torch.rand(1, generator=generator)) < config.masked_fraction and edit.local
    mask = None
    if masked:
        shape = (config.frames, config.height, config.width)
        mask = sample_mask(generator, *shape, config.mask_kinds, config.mask_area)
    target = to_pixels(apply_edit(edit, video, mask))
    shown = _integer(generator, config.frames)
    numbers = config.wording_numbers(edit)
    record = SampleRecord(
        key=key,
        instructions=tuple(
            local_instruction(edit, n) if masked else edit.instructions[n] for n in numbers
        ),
        frames=config.frames,
        height=config.height,
        width=config.width,
        fps=float(fps),
        edit=edit.name,
        split=config.split,
        source_clip=window.clip.name,
        start=window.start,
        stride=window.stride,
        has_mask=masked,
        has_reference=config.reference,
    )
    return Sample(
        record,
        source,
        encode_video(target, fps, config.crf),
        None if mask is None else _encode_mask(mask, fps),
        _encode_png(target[shown]) if config.reference else None,
    )


# --- pixels --------------------------------------------------------------------------------


def to_signed(pixels: Tensor) -> Tensor:
    """Map uint8 (F, H, W, 3) to (F, 3, H, W) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(video: Tensor) -> Tensor:
    """Map (F, 3, H, W) in [-1, 1] to uint8 (F, H, W, 3)."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous()


def _encode_mask(mask: Tensor, fps: Fraction) -> bytes:
    """Lossless: white is the region."""
    return encode_video((mask * 255).byte().permute(0, 2, 3, 1).expand(-1, -1, -1, 3), fps, crf=0)


def _encode_png(pixels: Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "png")
    return buffer.getvalue()


# --- chance --------------------------------------------------------------------------------


def _generator(seed: int, purpose: str) -> Generator:
    """A stream of its own for each purpose, so that one sample never shifts another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _integer(generator: Generator, below: int) -> int:
    return int(torch.randint(below, (1,), generator=generator))
