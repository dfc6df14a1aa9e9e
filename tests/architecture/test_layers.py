"""The import contracts of setup.cfg hold, and they would notice a break."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = ("torch", "lightning", "transformers", "diffusers", "peft", "torchmetrics", "webdataset")


def python(code: str, *, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, in `root`, with root/src importable."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return python(
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))",
        root=root,
    )


@pytest.fixture
def empty_layers(tmp_path: Path) -> Path:
    """The real contracts over a tree whose layers are all there and all empty."""
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    contracts = configparser.ConfigParser()
    contracts.read(tmp_path / "setup.cfg")
    layers = re.findall(r"\w+", contracts["importlinter:contract:layers"]["layers"])
    for package in ("", *layers):
        folder = tmp_path / "src" / "vedit" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    return tmp_path


def test_contracts_are_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_empty_layers_keep_the_contracts(empty_layers: Path) -> None:
    result = lint_imports(empty_layers)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("errors/__init__", "import vedit.cli", "Modules import only lower layers"),
        ("engine/quality", "from vedit import system", "Modules import only lower layers"),
        ("tokens/__init__", "import vedit.video", "siblings never each other"),
        ("flow/path", "import vedit.attention", "siblings never each other"),
        ("released/recognise", "import vedit.editor", "Modules import only lower layers"),
        ("testing/golden", "import vedit.cli", "siblings never each other"),
        ("evaluation/__init__", "from vedit.system import EditSystem", "siblings never each other"),
        ("conditioning/add", "import vedit.backbones.wan", "siblings never each other"),
        ("flow/path", "import transformers", "transformers stays in"),
        ("backbones/wan", "from diffusers import models", "diffusers stays in"),
        ("finetune/full", "import peft", "peft stays in"),
        ("data/index", "import lightning.pytorch", "lightning stays in"),
        ("engine/index", "from pytorch_lightning import Trainer", "lightning stays in"),
    ],
)
def test_a_forbidden_import_is_noticed(
    empty_layers: Path, module: str, statement: str, contract: str
) -> None:
    path = empty_layers / "src" / "vedit" / f"{module}.py"
    path.write_text(f"def late() -> None:\n    {statement}\n")
    result = lint_imports(empty_layers)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert len(broken) == 1, result.stdout + result.stderr
    assert contract in broken[0]


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("context/umt5", "import transformers"),
        ("codecs/wan_vae", "import diffusers"),
        ("finetune/lora", "import peft"),
        ("data/module", "import lightning.pytorch"),
        ("video/__init__", "from vedit.errors import DataError"),
        ("batch/__init__", "from vedit.tokens import Context"),
        ("conditioning/add", "from vedit.backbones.base import BackboneSpec"),
        ("flow/sampler", "import diffusers"),
        ("cli/__init__", "import vedit.system, vedit.tokens"),
    ],
)
def test_an_allowed_import_is_allowed(empty_layers: Path, module: str, statement: str) -> None:
    (empty_layers / "src" / "vedit" / "backbones" / "base.py").write_text(
        "class BackboneSpec: ...\n"
    )
    (empty_layers / "src" / "vedit" / f"{module}.py").write_text(statement + "\n")
    result = lint_imports(empty_layers)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_module_outside_the_layers_is_noticed(empty_layers: Path) -> None:
    (empty_layers / "src" / "vedit" / "utils.py").touch()
    result = lint_imports(empty_layers)
    assert result.returncode != 0
    assert "vedit.utils" in result.stdout


def test_every_package_has_an_init() -> None:
    """Without one a folder escapes the contracts and is left out of an installed vedit."""
    package = ROOT / "src" / "vedit"
    folders = {path.parent for path in package.rglob("*.py")}
    assert not sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists())


def test_help_imports_nothing_heavy() -> None:
    result = python(
        "import runpy, sys\n"
        "sys.argv = ['vedit', '--help']\n"
        "try:\n"
        "    runpy.run_module('vedit', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code, exit.code\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print('loaded:', *loaded, file=sys.stderr)\n"
    )
    assert result.returncode == 0, result.stderr
    assert "fit" in result.stdout
    assert "data" in result.stdout
    assert result.stderr.splitlines()[-1].strip() == "loaded:"


def test_the_package_root_imports_nothing_heavy() -> None:
    result = python(
        "import sys, vedit\n"
        "assert vedit.__version__\n"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
