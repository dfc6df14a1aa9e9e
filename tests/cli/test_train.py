"""`vedit fit | validate | test | predict` on a tiny editor, end to end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.tiny import make_config, make_shards, write_config

from vedit.cli import main


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def config(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path / "tiny.yaml", make_config(shards, Path("runs")))


def load(path: str) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_fit_saves_what_is_needed_to_go_on(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "tiny.yaml", "--model.source.time", "before"]) == 0
    last = "runs/tiny/checkpoints/last.ckpt"
    saved = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    stored = load(last)["config"]
    for tree in (saved, stored):
        assert tree["model"]["source"] == {
            "class_path": "vedit.conditioning.append.AppendTokens",
            "init_args": {
                "embed": {
                    "class_path": "vedit.conditioning.embed.PatchEmbed",
                    "init_args": {
                        "bias": True,
                        "zero_init": True,
                        "weights": None,
                        "weights_slice": None,
                    },
                },
                "time": "before",
                "noise": "clean",
                "sees": None,
                "offset": 0,
            },
        }
        assert tree["model"]["finetune"]["tower"] == {
            "class_path": "vedit.finetune.frozen.Frozen",
            "init_args": {"base": None},
        }
        assert tree["trainer"]["logger"]["init_args"]["name"] == "tiny"

    # The saved configuration is one: it resumes the run, and a run is not trained over.
    assert main(["fit", "--config", "runs/tiny/config.yaml"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "name: runs/tiny holds a run already; resume it with --ckpt_path" in said
    more = ["--ckpt_path", last, "--trainer.max_steps", "5"]
    assert main(["fit", "--config", "runs/tiny/config.yaml", *more]) == 0
    assert load(last)["global_step"] == 5

    for command in ("validate", "test", "predict"):
        assert main([command, "--config", "tiny.yaml", "--model.source.time", "before",
                     "--ckpt_path", last]) == 0  # fmt: skip


def test_a_checkpoint_of_another_model_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "tiny.yaml", "--trainer.max_steps", "1"]) == 0
    last = "runs/tiny/checkpoints/last.ckpt"
    without = ["--model.source", "null", "--ckpt_path", last]
    assert main(["validate", "--config", "tiny.yaml", *without]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vedit: ckpt_path: does not hold what this configuration trains")
    assert "model.injections.source" in error


def test_ctrl_c_saves_and_says_how_to_go_on(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)  # a test run in the background ignores it
    press = "{class_path: tests.cli.interrupting.InterruptAt, init_args: {step: 1}}"
    assert main(["fit", "--config", "tiny.yaml", "--trainer.callbacks+", press]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        "vedit: interrupted at step 2; resume with: vedit fit --config runs/tiny/config.yaml "
        "--ckpt_path runs/tiny/checkpoints/last.ckpt"
    )
    assert load("runs/tiny/checkpoints/last.ckpt")["global_step"] == 2
    words = said.partition("with: vedit ")[2].split()
    assert main(words) == 0
    assert load("runs/tiny/checkpoints/last.ckpt")["global_step"] == 3


def test_the_composed_configuration_can_be_printed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["fit", "--config", "tiny.yaml", "--model.mask", "AddToTokens", "--print_config"]) == 0
    )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["mask"]["class_path"] == "vedit.conditioning.add.AddToTokens"
    assert not Path("runs").exists()


def test_bf16_mixed_trains(config: Path) -> None:
    fast = ["--trainer.fast_dev_run", "true", "--trainer.precision", "bf16-mixed"]
    assert main(["fit", "--config", "tiny.yaml", *fast]) == 0
