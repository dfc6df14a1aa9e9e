from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.clips import moving, sound_seconds, write_clip
from tests.tiny_run import fit

from vedit.cli import main
from vedit.video import probe, read_video


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("edit"))


def edit(run: Path, video: Path, output: Path, *more: object) -> int:
    arguments = ["--checkpoint", run, "--video", video, "--output", output, "--steps", "1"]
    return main(["edit", *map(str, arguments), *map(str, more)])


def test_a_run_edits_a_film_with_sound_at_its_own_rate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = Fraction(24000, 1001)
    clip = write_clip(tmp_path / "in.mp4", moving(40, 50, 70), rate, sound=True)
    out = tmp_path / "new" / "out.mp4"
    assert edit(run, clip, out, "--instruction", "Invert the colours") == 0
    info = probe(out)
    assert (info.frames, info.height, info.width, info.fps) == (40, 50, 70, rate)
    assert sound_seconds(out) == pytest.approx(sound_seconds(clip), abs=0.05)
    assert f"{out}: 40 frames of 50x70" in capsys.readouterr().out


def test_mask_reference_and_seed_change_the_result(run: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(5, 32, 48))
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(image)
    words = ("--instruction", "Invert the colours")
    results = []
    for number, more in enumerate([(), ("--seed", 1), ("--reference", image), ()]):
        out = tmp_path / f"{number}.mp4"
        assert edit(run, clip, out, *words, *more) == 0
        results.append(out.read_bytes())
    assert results[0] == results[3]
    assert len(set(results)) == 3
    assert edit(run, clip, tmp_path / "m.mp4", *words, "--mask", image) == 0


def test_side_by_side_shows_the_source_on_the_left(run: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(6, 32, 48))
    out = tmp_path / "out.mp4"
    assert edit(run / "checkpoints", clip, out, "--instruction", "x", "--side-by-side") == 0
    shown = read_video(out).frames.float()
    assert shown.shape == (6, 32, 96, 3)
    assert (shown[:, :, :46] - read_video(clip).frames[:, :, :46].float()).abs().mean() < 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--video": "absent.mp4"}, "absent.mp4: no such video file"),
        ({"--checkpoint": "absent"}, "absent: no such checkpoint or run"),
        ({"--guidance": "nan"}, "--guidance: got nan, expected a number"),
        ({"--steps": "0"}, "--steps: got 0, expected at least 1"),
        ({"--stepps": "3"}, "unrecognized arguments: --stepps"),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(3, 32, 48))
    out = tmp_path / "out.mp4"
    given = {"--checkpoint": str(run), "--video": str(clip), "--output": str(out), **changes}
    assert main(["edit", *(word for pair in given.items() for word in pair)]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from vedit.cli import main; main(['edit', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--side-by-side" in done.stdout
