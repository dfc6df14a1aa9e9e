from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.clips import moving, sound_seconds, write_clip
from tests.tiny_run import REPOSITORY, codec, shards
from tests.tiny_run import config as run_config

from vedit.cli import main
from vedit.data.index import read_index
from vedit.engine.experts import experts
from vedit.video import probe, read_video


def run(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def config(folder: Path, clips: Path, **build: object) -> Path:
    path = folder / "data.yaml"
    shared = {"clips": str(clips), "frames": 5, "height": 16, "width": 24, **build}
    splits = {"train": {"output": str(folder / "train"), "windows": 2}}
    path.write_text(json.dumps({"build": {"edits": ["sepia"], **shared}, "splits": splits}))
    return path


def test_edits_lists_every_edit_with_all_its_wordings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [x.split()[0] for x in lines if not x.startswith(" ")] == list(experts())
    wordings = [text for e in experts().values() for text in e.instructions]
    assert [x.strip() for x in lines if x.startswith(" ")] == wordings


def test_edits_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edits", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == experts().keys()
    assert rows["reverse"]["temporal"]
    assert not rows["black_border"]["local"]
    assert len(rows["sepia"]["instructions"]) >= 5


@pytest.mark.parametrize("arguments", [["--help"], ["apply", "--help"], ["build", "--help"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from vedit.cli import main; "
        f"main(['data', *{arguments!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: vedit data" in done.stdout


def test_edits_does_not_wait_for_lightning() -> None:
    code = (
        "import sys; from vedit.cli import main; main(['data', 'edits']); "
        "import vedit.data.clips; "
        "sys.exit(any(n.split('.')[0] in ('lightning', 'transformers', 'diffusers') "
        "for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_build_writes_indexed_shards_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    write_clip(clips / "a.mp4", moving(20))
    path = config(tmp_path, clips)
    assert run("build", "--config", path, "--set", "splits.train.windows=3") == 0
    assert len(read_index(tmp_path / "train")) == 3
    out = capsys.readouterr().out
    assert "[train] train-000000.tar: 3 samples (3/3)" in out
    assert f"[train] 3 samples in {tmp_path / 'train'}" in out
    assert run("index", tmp_path / "train") == 0
    assert "3 samples, all of them whole" in capsys.readouterr().out


def test_build_of_an_unknown_split_names_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", "--config", config(tmp_path, tmp_path), "--split", "trian") == 2
    assert "has no split 'trian', only train. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode"], "give --config FILE, or --codec FOLDER and DIR"),
        (["encode", "--codec", "x"], "names no folder of shards"),
        (["build", "--config", "absent.yaml"], "no such file"),
        (["index", "absent"], "absent: no .tar shards here"),
        (["apply", "--edit", "sepia", "--video", "a.mp4", "--output", "b.mp4"], "no such video"),
        (
            ["apply", "--edit", "sepai", "--video", "a.mp4", "--output", "b.mp4"],
            "Did you mean 'sepia'?",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("frames", "height", "width", "rate"),
    [(40, 48, 64, Fraction(24000, 1001)), (7, 35, 51, Fraction(25)), (1, 32, 32, Fraction(30))],
)
def test_apply_keeps_size_rate_and_length(
    tmp_path: Path, frames: int, height: int, width: int, rate: Fraction
) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(frames, height, width), rate)
    out = tmp_path / "out" / "edited.mp4"
    assert run("apply", "--edit", "negative", "--video", clip, "--output", out) == 0
    info = probe(out)
    assert (info.frames, info.height, info.width, info.fps) == (frames, height, width, rate)
    before, after = read_video(clip).frames.float(), read_video(out).frames.float()
    assert (after - (255 - before)).abs().mean() < 4


def test_apply_keeps_the_sound(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(48), 24, sound=True)
    out = tmp_path / "out.mp4"
    assert run("apply", "--edit", "reverse", "--video", clip, "--output", out) == 0
    assert sound_seconds(out) == pytest.approx(sound_seconds(clip), abs=0.05)
    before, after = read_video(clip).frames.float(), read_video(out).frames.float()
    assert (after - before.flip(0)).abs().mean() < 3


def test_apply_keeps_a_variable_rate(tmp_path: Path) -> None:
    stamps = [0, 40, 200, 240, 600, 640]
    clip = write_clip(tmp_path / "in.mkv", moving(6), 25, stamps=stamps)
    out = tmp_path / "out.mp4"
    assert run("apply", "--edit", "sepia", "--video", clip, "--output", out) == 0
    assert [round(float(t), 3) for t in read_video(out).times] == [s / 1000 for s in stamps]


def test_apply_with_a_mask_of_another_size_edits_inside_it_only(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(12))
    left = torch.zeros(4, 20, 40, 3, dtype=torch.uint8)
    left[:, :, :20] = 255
    mask = write_clip(tmp_path / "mask.mp4", left)
    out = tmp_path / "out.mp4"
    assert run("apply", "--edit", "negative", "--video", clip, "--output", out, "--mask", mask) == 0
    before, after = read_video(clip).frames.float(), read_video(out).frames.float()
    inside, outside = slice(0, 30), slice(34, 64)
    assert (after[:4, :, inside] - (255 - before[:4, :, inside])).abs().mean() < 4
    assert (after[:4, :, outside] - before[:4, :, outside]).abs().mean() < 4
    assert (after[4:] - before[4:]).abs().mean() < 4  # the mask has ended


def test_apply_refuses_a_mask_for_an_edit_of_the_whole_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(3))
    out = tmp_path / "out.mp4"
    code = run("apply", "--edit", "mirror", "--video", clip, "--output", out, "--mask", clip)
    assert code == 2
    assert "mirror acts on the frame as a whole" in capsys.readouterr().err
    assert not out.exists()


def test_apply_leaves_nothing_behind_when_it_fails_half_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(12))
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"no image")
    out = tmp_path / "o" / "out.mp4"
    assert run("apply", "--edit", "sepia", "--video", clip, "--output", out, "--mask", mask) == 1
    assert "mask.png: not a readable image" in capsys.readouterr().err
    assert not list((tmp_path / "o").iterdir())


# --- encode --------------------------------------------------------------------------------


def holds(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    (path,) = folder.glob(f"*.{kind}.safetensors")
    return load_file(path)


def test_encode_with_folders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(tmp_path)
    words = (REPOSITORY / "nano" / "text_encoder", REPOSITORY / "nano" / "tokenizer")
    code = run(
        "encode", folder, "--codec", codec(tmp_path), "--context", words[0],
        "--tokenizer", words[1], "--max-tokens", "16", "--dtype", "float16",
    )  # fmt: skip
    assert code == 0
    latents = holds(folder, "latents")
    assert {tuple(z.shape) for z in latents.values()} == {(4, 2, 4, 6), (4, 1, 4, 6)}
    assert {z.dtype for z in latents.values()} == {torch.float16}
    assert holds(folder, "features")
    out = capsys.readouterr().out
    assert "[train] train-000000.latents.safetensors" in out
    assert "[train] encoded" in out


def test_encode_with_the_config_of_a_model_serves_its_training(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    path = run_config(tmp_path)
    assert run("encode", "--shards", folder, "--config", path, "--dtype", "float32") == 0
    assert holds(folder, "latents")
    assert holds(folder, "features")
    cached = ["--config", str(path), "--data.latents", "always", "--data.test", "null"]
    assert main(["fit", *cached]) == 0


def test_encode_with_a_data_config_encodes_all_its_splits(tmp_path: Path) -> None:
    folders = [shards(tmp_path), shards(tmp_path, "test", windows=1)]
    content = {
        "build": {"clips": str(tmp_path / "clips")},
        "splits": {f.name: {"output": str(f)} for f in folders},
        "encode": {
            "codec": {
                "class_path": "vedit.codecs.wan_vae.WanVAE",
                "init_args": {"weights": codec(tmp_path)},
            }
        },
    }
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(content))
    assert run("encode", "--config", path) == 0
    assert all(holds(folder, "latents") for folder in folders)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"class_path": "vedit.codecs.wan_vae.WanVEA"}, "has no class 'WanVEA'. Did you mean"),
        ({"class_path": "vedit.codec.WanVAE"}, "'vedit.codec.WanVAE' cannot be imported"),
        (
            {"class_path": "vedit.codecs.wan_vae.WanVAE", "init_args": {"weight": "x"}},
            "encode.codec.init_args.weight: WanVAE takes no such argument. Did you mean 'weights'",
        ),
    ],
)
def test_a_wrong_encoder_is_one_line(
    tmp_path: Path, part: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"splits": {"train": {"output": "out"}}, "encode": {"codec": part}}
    content["build"] = {"clips": "clips"}
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(content))
    assert run("encode", "--config", path) == 2
    assert message in capsys.readouterr().err
