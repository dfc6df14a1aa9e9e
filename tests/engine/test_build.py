"""Building shards: exact targets, windows inside shots, the same bytes again, resumable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vedit.data.index import build_index, read_index
from vedit.data.media import decode_member
from vedit.data.shards import ShardReader
from vedit.data.shots import Shot, cut_shots
from vedit.data.transforms import to_pixels
from vedit.engine.build import build
from vedit.engine.build_config import BuildConfig
from vedit.engine.experts import expert, experts
from vedit.engine.experts.apply import apply_edit, local_instruction
from vedit.engine.source_windows import choose_windows
from vedit.errors import ConfigError, DataError
from vedit.video import write_video


def film(takes: list[int], seed: int, height: int = 40, width: int = 60) -> Tensor:
    """Takes of a coloured, textured ground with a moving square, uint8 (F, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for take, length in enumerate(takes):
        texture = torch.nn.functional.interpolate(
            torch.rand(1, 3, 5, 7, generator=generator), (height, width), mode="bilinear"
        )[0]
        ground = (texture * 90 + 20 + 110 * (take % 2)).byte().permute(1, 2, 0)
        for i in range(length):
            frame = ground.clone()
            left = (2 * i) % (width - 12)
            frame[10:22, left : left + 12] = torch.tensor([230, 60, 40], dtype=torch.uint8)
            frames.append(frame)
    return torch.stack(frames)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of three takes, a single take, and two held-out clips."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "film.mp4", film([30, 12, 40], 0), 24, crf=4)
    write_video(folder / "take.mp4", film([25], 1), 25, crf=4)
    write_video(folder / "bikes.mp4", film([20, 26], 2), 25, crf=4)
    write_video(folder / "single_face.mp4", film([24], 3), 30, crf=4)
    return folder


def config(clips: Path, output: Path, **changes: Any) -> BuildConfig:
    values: dict[str, Any] = {
        "edits": ["negative", "mirror", "reverse"], "windows": 4, "frames": 5, "height": 32,
        "width": 48, "shard_size": 5,
    }  # fmt: skip
    return BuildConfig(clips, output, **(values | changes))


def quiet(_: str) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.fixture(scope="module")
def built(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    output = tmp_path_factory.mktemp("built")
    made = config(clips, output, masked_fraction=0.5, reference=True, windows=6, seed=1)
    build(made, quiet)
    return made


def test_targets_are_the_edit_of_the_source_that_is_read(built: BuildConfig) -> None:
    index, reader = read_index(built.output), ShardReader(built.output)
    assert len(index) == 18
    assert {e.record.edit for e in index.entries} == {"negative", "mirror", "reverse"}
    for entry in index.entries:
        edit = expert(entry.record.edit)
        source = decode_member(reader, entry, "source.mp4").transpose(0, 1)
        target = decode_member(reader, entry, "target.mp4").transpose(0, 1)
        mask = None
        if entry.record.has_mask:
            mask = (decode_member(reader, entry, "mask.mp4")[:1].transpose(0, 1) + 1) / 2
        assert psnr(apply_edit(edit, source, mask), target) > 40


def test_masks_come_with_words_that_mention_them(built: BuildConfig) -> None:
    entries = read_index(built.output).entries
    masked = [e.record for e in entries if e.record.has_mask]
    assert 0 < len(masked) < len(entries)
    for record in (e.record for e in entries):
        edit = expert(record.edit)
        if record.has_mask:
            assert edit.local
            assert record.instruction == local_instruction(edit, 0)
        else:
            assert record.instructions == edit.instructions


def test_references_are_frames_of_the_target(built: BuildConfig) -> None:
    reader = ShardReader(built.output)
    shown = set()
    for entry in read_index(built.output).entries:
        reference = decode_member(reader, entry, "reference.png")
        target = decode_member(reader, entry, "target.mp4")
        likeness = [psnr(reference[:, 0], target[:, i]) for i in range(built.frames)]
        assert max(likeness) > 40
        shown.add(likeness.index(max(likeness)))
    assert len(shown) > 1


def test_the_source_is_what_the_clip_shows(built: BuildConfig) -> None:
    """Encoding costs little: over 40 dB against the clip, at the default quality."""
    from vedit.video import read_video

    reader = ShardReader(built.output)
    for entry in read_index(built.output).entries[::3]:
        r = entry.record
        original = read_video(
            built.clips / r.source_clip, r.start, r.frames, r.stride, (r.height, r.width)
        )
        source = to_pixels(decode_member(reader, entry, "source.mp4"))
        difference = (source.float() - original.frames.float()).square().mean()
        assert 10 * torch.log10(255**2 / difference) > 40
        assert r.fps == pytest.approx(float(original.fps))


def test_windows_lie_inside_shots_and_never_in_held_out_clips(clips: Path, tmp_path: Path) -> None:
    made = config(clips, tmp_path, windows=60, strides=[1, 2, 3])
    windows = choose_windows(made)
    assert len(windows) == 60
    assert {w.clip.name for w in windows} == {"film.mp4", "take.mp4"}
    assert {w.stride for w in windows} == {1, 2, 3}
    for w in windows:
        last = w.start + (made.frames - 1) * w.stride
        assert any(s.start <= w.start and last < s.stop for s in cut_shots(w.clip)), w
    assert cut_shots(clips / "film.mp4") == [Shot(0, 30), Shot(30, 42), Shot(42, 82)]
    assert windows != choose_windows(replace(made, seed=1))


def test_the_held_out_set_is_fixed_and_spread(clips: Path, tmp_path: Path) -> None:
    made = config(clips, tmp_path, split="test", windows=8, strides=[1])
    windows = choose_windows(made)
    assert windows == choose_windows(replace(made, seed=9))
    assert [w.clip.name for w in windows[:2]] == ["bikes.mp4", "single_face.mp4"]
    bikes = [w.start for w in windows if w.clip.name == "bikes.mp4"]
    assert len(bikes) == 4
    assert bikes == sorted(set(bikes))
    assert min(bikes) < 16  # the first shot
    assert max(bikes) >= 20  # the second


def test_the_same_configuration_gives_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(config(clips, tmp_path / name, masked_fraction=0.5, reference=True), quiet)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    build(config(clips, tmp_path / "c", masked_fraction=0.5, reference=True, seed=7), quiet)
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_an_interrupted_build_is_finished_and_whole_shards_are_kept(
    clips: Path, tmp_path: Path
) -> None:
    build(config(clips, tmp_path / "whole"), quiet)
    output = tmp_path / "part"
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("train-000001.tar"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(config(clips, output), interrupt)
    assert {p.name for p in output.glob("*.tar*")} == {"train-000000.tar", "train-000001.tar"}
    stamp = (output / "train-000000.tar").stat().st_mtime_ns
    lines.clear()
    build(config(clips, output), lines.append)
    assert lines == [
        "keeping 2 of 3 shards (10 samples)",
        "train-000002.tar: 2 samples (12/12)",
    ]
    assert (output / "train-000000.tar").stat().st_mtime_ns == stamp
    assert contents(output) == contents(tmp_path / "whole")


def test_a_cut_off_shard_is_named_and_rebuilt_once_deleted(clips: Path, tmp_path: Path) -> None:
    build(config(clips, tmp_path / "whole"), quiet)
    build(config(clips, tmp_path / "cut"), quiet)
    shard = tmp_path / "cut" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-000001\.tar"):
        build(config(clips, tmp_path / "cut"), quiet)
    shard.unlink()
    build(config(clips, tmp_path / "cut"), quiet)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_several_processes_give_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    build(config(clips, tmp_path / "one"), quiet)
    build(config(clips, tmp_path / "two", workers=2), quiet)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_other_settings_do_not_mix_with_shards_that_are_there(clips: Path, tmp_path: Path) -> None:
    build(config(clips, tmp_path), quiet)
    with pytest.raises(
        DataError, match="was built with other frames, crf, clips; choose another output"
    ):
        build(config(clips, tmp_path, frames=4, crf=8), quiet)


def test_other_clips_do_not_mix_with_shards_that_are_there(clips: Path, tmp_path: Path) -> None:
    """What belongs to a split may change: shards of the former split must not stay unnoticed."""
    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    build(config(own, tmp_path / "out"), quiet)
    (own / "splits.json").write_text('{"film.mp4": {"train": [[0, 30]]}}')
    with pytest.raises(DataError, match="was built with other clips"):
        build(config(own, tmp_path / "out"), quiet)


def test_an_index_made_from_the_shards_is_the_one_written(clips: Path, tmp_path: Path) -> None:
    index = build(config(clips, tmp_path), quiet)
    (tmp_path / "index.jsonl").unlink()
    assert build_index(tmp_path, quiet) == index


def test_edits_are_taken_in_turn(clips: Path, tmp_path: Path) -> None:
    made = config(clips, tmp_path, windows=6, edits_per_window=2)
    edits = [e.record.edit for e in build(made, quiet).entries]
    assert len(edits) == 12
    assert {name: edits.count(name) for name in made.chosen} == dict.fromkeys(made.chosen, 4)
    assert all(edits[i] != edits[i + 1] for i in range(0, 12, 2))  # two edits of one window


@pytest.mark.parametrize(
    ("wordings", "expected"),
    [("seen", slice(None, -1)), ("holdout", slice(-1, None)), ([0, 2], slice(0, 3, 2))],
)
def test_wordings_can_be_held_out(
    clips: Path, tmp_path: Path, wordings: Any, expected: slice
) -> None:
    made = config(clips, tmp_path, windows=1, wordings=wordings)
    for entry in build(made, quiet).entries:
        assert entry.record.instructions == expert(entry.record.edit).instructions[expected]


def test_all_edits_ship(clips: Path, tmp_path: Path) -> None:
    assert config(clips, tmp_path, edits="all").chosen == list(experts())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"windows": 0}, "windows: got 0"),
        ({"strides": [0]}, "strides: got"),
        ({"masked_fraction": 1.5}, "masked_fraction: got 1.5"),
        ({"edits_per_window": 4}, "edits_per_window: got 4, expected 1 to 3"),
        ({"edits": ["negativ"]}, "Did you mean 'negative'"),
        ({"wordings": [99]}, "wordings: got"),
    ],
)
def test_impossible_settings_are_refused(
    clips: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        config(clips, tmp_path, **change)
    assert said in str(error.value)


def test_clips_that_are_too_short_are_said(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shot of split 'train' is long enough for 81 frames"):
        choose_windows(config(clips, tmp_path, frames=81))
