"""References come to a clip's size as they did in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.clips import moving

from vedit.data.transforms import Letterbox, RandomCropRotate
from vedit.editor.checkpoint import ClipSize
from vedit.editor.conditions import references
from vedit.editor.reference import reference_transform
from vedit.errors import ConfigError

SHRINK = {
    "class_path": "vedit.data.transforms.RandomShrink",
    "init_args": {"scale": [0.7, 1.0], "ground": [1.0, 0.0, -1.0]},
}


@pytest.mark.parametrize(
    "data", [{"reference": SHRINK}, {"class_path": "EditData", "init_args": {"reference": SHRINK}}]
)
def test_the_ground_is_that_of_training(data: dict[str, object]) -> None:
    transform = reference_transform({"data": data}, "run")
    assert isinstance(transform, Letterbox)
    assert transform.ground == (1.0, 0.0, -1.0)


@pytest.mark.parametrize("config", [{}, {"data": None}, {"data": {"reference": None}}])
def test_without_one_it_is_black(config: dict[str, object]) -> None:
    transform = reference_transform(config, "run")
    assert isinstance(transform, Letterbox)
    assert transform.ground == -1.0


def test_a_transform_that_is_not_there_is_named() -> None:
    wrong = {"data": {"reference": {"class_path": "vedit.data.transforms.RandomSrink"}}}
    with pytest.raises(ConfigError, match="run.ckpt: data.*RandomSrink"):
        reference_transform(wrong, "run.ckpt")


def test_several_references_are_stacked_and_still(tmp_path: Path) -> None:
    size, transform = ClipSize(5, 16, 48), RandomCropRotate(ground=1.0).still()
    pixels = moving(2, 16, 16)
    found = references([pixels[0], pixels[1]], size, transform).encoded
    assert found is not None
    assert found.shape == (1, 2, 3, 16, 48)
    assert (found[..., :16] == 1).all()
    again = references([pixels[0], pixels[1]], size, transform)
    assert again.encoded is not None
    assert torch.equal(found, again.encoded)
    assert again.shown == ()  # nobody looks
    assert references(None, size, transform).encoded is None
