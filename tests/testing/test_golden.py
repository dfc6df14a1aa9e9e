"""`python -m vedit.testing.golden` tells agreement from disagreement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tests.released.editor_folder import SIZES, save_embedder
from tests.wan import randomised

from vedit.testing.cases import Case
from vedit.testing.denoiser import denoiser, velocity_of
from vedit.testing.golden import differences, main


def record(folder: Path) -> Path:
    """Fill a folder with two cases recorded from this very code."""
    randomised(WanTransformer3DModel(**SIZES), std=0.1).save_pretrained(folder / "transformer")
    save_embedder(folder / "source_embedder", seed=1)
    save_embedder(folder / "ref_embedder", seed=2)
    options = [{"ref_first": False}, {"ref_first": True}]
    tensors = {}
    for number, option in enumerate(options):
        case = {name: torch.randn(1, 4, 2, 4, 6) for name in ("noisy", "source")}
        case |= {"reference.0": torch.randn(1, 4, 1, 4, 6), "context": torch.randn(1, 5, 32)}
        case |= {"timestep": torch.tensor([700.0]), "sigma": torch.tensor([0.7])}
        model = denoiser(folder, option["ref_first"])
        case["velocity"] = velocity_of(model, Case("", case, option))
        tensors |= {f"{number}.{name}": value for name, value in case.items()}
    save_file(tensors, folder / "cases.safetensors")
    (folder / "cases.json").write_text(json.dumps(options))
    return folder


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return record(tmp_path / "golden")


def change(folder: Path, key: str, by: float) -> None:
    tensors = load_file(folder / "cases.safetensors")
    tensors[key] = tensors[key] + by
    save_file(tensors, folder / "cases.safetensors")


def test_agreement(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(recorded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("0: noisy 1x4x2x4x6, source, 1 reference  0")
    assert "1 reference first" in lines[1]
    assert lines[2] == "2 of 2 within 0.0001"


@pytest.mark.parametrize("by", [1e-2, float("nan")])
def test_disagreement(recorded: Path, by: float, capsys: pytest.CaptureFixture[str]) -> None:
    change(recorded, "1.velocity", by)
    assert main([str(recorded)]) == 1
    assert "EXCEEDS" in capsys.readouterr().out.splitlines()[1]
    assert main([str(recorded), "--tolerance", "0.1"]) == (0 if by == 1e-2 else 1)


def test_where_references_stand_and_the_gain_matter(recorded: Path) -> None:
    assert max(found.largest for found in differences(recorded)) < 1e-6
    change(recorded, "0.sigma", 0.1)
    (recorded / "cases.json").write_text(json.dumps([{}, {}]))
    assert min(found.largest for found in differences(recorded)) > 1e-3


def test_the_gain_is_given_back(recorded: Path) -> None:
    model = denoiser(recorded)
    tensors = load_file(recorded / "cases.safetensors")
    case = {k[2:]: v for k, v in tensors.items() if k.startswith("0.")}
    velocity_of(model, Case("", case, {}))
    assert model.injections["source"].scale(torch.tensor([0.25])) == 0.25


def test_mistakes_are_one_line(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "holds no cases.json and no cases.safetensors" in capsys.readouterr().err
    (recorded / "cases.json").write_text("[{}]")
    assert main([str(recorded)]) == 2
    assert "1.context: expected 0 to 0" in capsys.readouterr().err
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("cases.json", "cases.safetensors"):
        (bare / name).write_bytes((recorded / name).read_bytes())
    (bare / "cases.json").write_text("[{}, {}]")
    assert main([str(bare)]) == 2
    assert "holds cases but no weights" in capsys.readouterr().err
