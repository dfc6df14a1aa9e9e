"""The door: quick help, exit codes, no tracebacks for users' mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vedit.cli import main
from vedit.cli.dispatch import COMMANDS

ROOT = Path(__file__).parents[2]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["describe", "--help"], ["nonsense"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    result = run(
        "import sys; from vedit.cli import main\n"
        f"main({arguments})\n"
        "heavy = {'torch', 'lightning', 'omegaconf', 'jsonargparse'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert result.returncode == 0, result.stderr


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in shown
        assert command.help in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"vedit {name}" in capsys.readouterr().out


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["descirbe"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vedit: 'descirbe' is no command. Did you mean 'describe'?")
    assert error.count("\n") == 1


def test_misspelt_keys_are_found_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "model: {source: {class_path: AppendTokens, init_args: {tiem: 1}}}"
    )
    result = run(
        "import sys; from vedit.cli import main\n"
        f"code = main(['fit', '--config', {str(tmp_path / 'x.yaml')!r}])\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    assert result.returncode == 2
    key = f"{tmp_path}/x.yaml: model.source.init_args.tiem"
    assert result.stderr == f"vedit: {key}: unknown key. Did you mean 'time'?\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from vedit.errors import ConfigError

    with pytest.raises(ConfigError, match="no such file"):
        main(["fit", "--config", str(tmp_path / "none.yaml"), "--debug"])
