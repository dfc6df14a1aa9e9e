"""What released weights depend on to the letter, and what recipes have in common."""

from __future__ import annotations

import hashlib

import pytest
from tests.configs.shrunk import CONFIGS

from vedit.cli.extends import compose

# Of the texts in the code that trained the released weights.
SYSTEM = "32facc6921b4678807caf4d4ca2c6bcc9da26414cd1d382eb7d0536e6352cc56"
SUFFIX = "9f84afe4a638b3555cda48d626348593e33a4c6875482590edc2f385f7a1d24d"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", ["stage1", "stage3", "stage2_720_14b"])
def test_prompts_are_those_of_the_released_weights(name: str) -> None:
    tree = compose([CONFIGS / "experiments" / "kiwi_edit" / f"{name}.yaml"]).tree
    prompt = tree["model"]["context"]["init_args"]["prompt"]
    assert digest(prompt["system"]) == SYSTEM
    assert digest(prompt["reference_suffix"]) == SUFFIX


@pytest.mark.parametrize(
    ("real", "nano"),
    [
        ("easyv2v/480p", "nano/easyv2v"),
        ("mive/720p", "nano/mive"),
        ("kiwi_edit/stage1", "nano/kiwi_edit_stage1"),
        ("kiwi_edit/stage2_600", "nano/kiwi_edit_stage2"),
        ("kiwi_edit/stage3", "nano/kiwi_edit"),
    ],
)
def test_nano_is_the_same_composition(real: str, nano: str) -> None:
    """Class for class: at nano scale only sizes, data and the optimizer differ."""
    one, two = (
        compose([CONFIGS / "experiments" / f"{name}.yaml"]).tree["model"] for name in (real, nano)
    )
    for slot in ("backbone", "context", "instruction", "source", "mask", "reference"):
        paths = [(tree.get(slot) or {}).get("class_path") for tree in (one, two)]
        assert paths[0] == paths[1], slot
    blocks = [tree["backbone"]["init_args"].get("block") for tree in (one, two)]
    assert blocks[0] == blocks[1]
    plans = [{k: v["class_path"] for k, v in t["finetune"].items()} for t in (one, two)]
    assert plans[0] | {"connector": 0} == plans[1] | {"connector": 0}


def test_stages_go_on_from_one_another() -> None:
    order = ["stage1", "stage2_600", "stage2_720", "stage3"]
    trees = [compose([CONFIGS / "experiments" / "kiwi_edit" / f"{n}.yaml"]).tree for n in order]
    assert [tree["model"].get("init_from") for tree in trees] == [
        None,
        *(f"runs/{tree['name']}" for tree in trees[:-1]),
    ]
