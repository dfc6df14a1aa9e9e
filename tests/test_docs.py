"""Every command that the documents show is run, as shown, in a small workspace.

Configurations that `docs/` shows whole, from `extends` on, are composed and checked.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tests.released.editor_folder import save_editor
from tests.testing.test_golden import record

from vedit.cli import main
from vedit.cli.experiment import check, read
from vedit.video import write_video

# A user sees the warnings of a short run; here only the outcome counts.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
MAKE = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
# Long work is cut short; nothing else of a command is changed.
SHORT = [
    "--trainer.max_steps",
    "1",
    "--trainer.callbacks",
    "[]",
    "--trainer.log_every_n_steps",
    "1",
]
# What the documents go on from.
RUNS = ("quickstart", "nano/kiwi_edit_stage1", "nano/kiwi_edit_stage2")


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            found += [
                line[2:].split("  #")[0].rstrip() for line in block.splitlines() if line[:2] == "$ "
            ]
    return sorted(set(found))


def configurations() -> list[str]:
    blocks = []
    for page in (ROOT / "docs").glob("*.md"):
        blocks += re.findall(r"```yaml\n(extends:.*?)```", page.read_text(), re.DOTALL)
    return sorted(blocks)


def moving_clip(frames: int = 12) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randint(0, 256, (8, 24, 3), generator=generator, dtype=torch.uint8)
    scene = scene.repeat_interleave(12, 0).repeat_interleave(12, 1)
    for frame in range(frames):
        yield scene[:96, frame : frame + 160]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's shape with one tiny clip, built and trained on by its own commands.

    `models` holds what a reader downloads: a released editor, and weights with recorded cases, a
    few thousand parameters large.
    """
    place = tmp_path_factory.mktemp("workspace")
    for name in ("configs", "examples", "nano"):
        (place / name).symlink_to(ROOT / name)
    clips = place / "data" / "demo"
    clips.mkdir(parents=True)
    write_video(clips / "bikes.mp4", moving_clip(), 24)
    spans = '{"bikes.mp4": {"train": [[0, null]], "val": [[0, null]], "test": [[0, null]]}}'
    (clips / "splits.json").write_text(spans)
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    data = "configs/data/quickstart.yaml"
    sizes = [f"splits.{split}.windows=1" for split in ("train", "val", "test")]
    workers = ["splits.train.workers=0"]
    overrides = [word for item in sizes + workers for word in ("--set", item)]
    assert main(["data", "build", "--config", data, *overrides]) in (0, None)
    run = ["--trainer.max_steps", "1", "--data.batch_size", "2", "--trainer.log_every_n_steps", "1"]
    for name in RUNS:
        config = f"configs/experiments/{name}.yaml"
        assert main(["fit", "--config", config, *run]) in (0, None)
    patch.undo()
    save_editor(place / "models" / "editor")
    record(place / "models" / "recorded")
    return place


def name_of(command: str) -> str:
    return command.removeprefix(".venv/bin/")[:90]


@pytest.mark.parametrize("command", commands(), ids=name_of)
def test_command_runs(
    command: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "my_strategy" / "src"))
    words = shlex.split(command)
    if words[0] == "make":
        targets = MAKE.findall((ROOT / "Makefile").read_text())
        assert words[1] in targets
        return
    program = Path(words[0]).name
    if program == "python" and words[1] == "-m":
        assert import_module(words[2]).main(words[3:]) == 0
        return
    if program != "vedit":
        assert shutil.which(program, path=str(ROOT / ".venv" / "bin")), f"no program {program}"
        return
    short = [*SHORT, "--data.batch_size", "2"] if words[1] == "fit" else []
    if short and "--name" not in words:
        # The workspace may hold a run of the experiment's name.
        short += ["--name", f"documented_{commands().index(command)}"]
    assert main([*words[1:], *short]) in (0, None), capfd.readouterr().err


@pytest.mark.parametrize("block", configurations())
def test_configuration_fits(
    block: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    (tmp_path / "shown.yaml").write_text(block)
    check(read([str(tmp_path / "shown.yaml")]))


def test_the_pages_show_commands() -> None:
    assert any("vedit edit" in command for command in commands())
