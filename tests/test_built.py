"""Weights that nothing is loaded into: a function of the seed and the part they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import make_config, make_shards, make_system, write_config

from vedit.cli import main
from vedit.editor.checkpoint import load_trained
from vedit.errors import ConfigError
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.system import EditSystem


def built(number: int, **changes: object) -> EditSystem:
    """Built after `number` random numbers have been drawn."""
    torch.randn(number)
    system = make_system(**changes)
    system.configure_model()
    return system


def weights(system: EditSystem, part: str) -> dict[str, torch.Tensor]:
    return dict(system.parts()[part][0].state_dict())


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.parametrize("part", ["model.backbone", "context.tower", "context.connector"])
def test_they_do_not_depend_on_what_else_is_built(part: str) -> None:
    one, two = built(1), built(2, source=None)
    assert same(weights(one, part), weights(two, part))
    assert not same(weights(one, part), weights(built(1, seed=1), part))


def test_adapters_do_not_either() -> None:
    plan = FinetunePlan(backbone=LoRA(rank=2), tower=LoRA(rank=2, targets=["q"]))
    one = built(1, finetune=plan)
    two = built(2, finetune=FinetunePlan(tower=LoRA(rank=2, targets=["q"])))
    assert same(weights(one, "context.tower"), weights(two, "context.tower"))


@pytest.mark.parametrize("part", ["backbone", "tower", "connector", "injections"])
def test_a_method_that_does_not_suit_a_part_is_named_by_its_key(part: str) -> None:
    plan = FinetunePlan(**{part: LoRA(targets=["to_qq"])})
    with pytest.raises(ConfigError, match=rf"^model\.finetune\.{part}: LoRA targets: 'to_qq'"):
        built(1, finetune=plan)


def test_building_draws_nothing_from_the_global_stream() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    make_system().configure_model()
    assert torch.equal(torch.randn(4), expected)


def test_a_frozen_random_tower_comes_back_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = make_config(make_shards(tmp_path / "shards"), tmp_path / "runs")
    tree |= {"seed_everything": 5}
    tree["model"]["seed"] = 5
    tree["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}
    tree["trainer"]["callbacks"] = [
        {"class_path": "PeriodicCheckpoint", "init_args": {"every_n_steps": 1}}
    ]
    assert main(["fit", "--config", str(write_config(tmp_path / "tiny.yaml", tree))]) == 0
    torch.randn(7)
    system = load_trained(tmp_path / "runs" / "tiny").system
    assert system.seed == 5
    assert same(weights(system, "context.tower"), weights(built(3, seed=5), "context.tower"))
