"""What is taken of another training, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vedit.errors import WeightsError
from vedit.finetune.full import Full
from vedit.finetune.start import check_start, start_from


def parts(width: int = 3, device: str = "cpu") -> dict[str, tuple[nn.Module, Full]]:
    with torch.device(device):
        slots = nn.ModuleDict({"mask": nn.Linear(width, 2), "source": nn.Linear(3, 2)})
    return {"model.injections": (slots, Full())}


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A folder with a mask embedding of another shape, and a source embedding that fits."""
    tensors = {
        "model.injections.mask.weight": torch.ones(2, 5),
        "model.injections.mask.bias": torch.ones(2),
        "model.injections.source.weight": torch.full((2, 3), 7.0),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_shape_that_differs_names_what_leaves_it_out(stored: str, device: str) -> None:
    act = start_from if device == "cpu" else check_start
    message = (
        r"mask\.weight is \(2, 5\), .* \(2, 3\); .*init_without \['model.injections.mask.\*'\]"
    )
    with pytest.raises(WeightsError, match=message):
        act(parts(device=device), stored)
    act(parts(device=device), stored, ["model.injections.mask.*"])


@torch.no_grad()
def test_what_is_left_out_keeps_its_start(stored: str) -> None:
    own = parts()
    before = own["model.injections"][0].mask.bias.clone()
    assert start_from(own, stored, ["*.mask.*"]) == {}
    assert torch.equal(own["model.injections"][0].mask.bias, before)
    assert bool((own["model.injections"][0].source.weight == 7).all())


def test_a_pattern_that_matches_nothing_names_the_nearest_key(stored: str) -> None:
    with pytest.raises(WeightsError, match=r"init_without: model\.injections\.msk\.bias .*mask"):
        start_from(parts(5), stored, ["model.injections.msk.bias"])


def test_what_a_stage_before_is_yet_to_write_is_not_compared(tmp_path: Path) -> None:
    check_start(parts(device="meta"), str(tmp_path / "runs" / "stage1"))
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    check_start(parts(device="meta"), str(tmp_path / "begun"))
