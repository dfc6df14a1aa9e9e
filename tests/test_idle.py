"""Frozen encoders that wait on the host encode as they would on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import BACKBONE, built, make_batch, make_config, make_shards, write_config
from torch import nn

from vedit.backbones.wan import WanDiT
from vedit.cli import main
from vedit.finetune.full import Full
from vedit.finetune.plan import FinetunePlan
from vedit.idle import Visitor


def resting(**changes: Any) -> Any:
    system = built(idle="offload", **changes)
    system.on_fit_start()
    return system


def test_conditions_and_edits_are_the_same() -> None:
    kept, system = built(), resting()
    batch = make_batch()
    expected, found = kept.conditions(batch), system.conditions(batch)
    assert torch.equal(expected.latents["source"], found.latents["source"])
    assert torch.equal(expected.context.tokens, found.context.tokens)
    torch.testing.assert_close(kept.edit(batch), system.edit(batch), rtol=1e-4, atol=1e-5)
    codec, tower = system.visitors
    assert codec.visits >= 3
    assert tower.visits >= 1


def test_nobody_visits_where_caches_serve_everything() -> None:
    kept, system = built(), resting()
    batch = make_batch()
    latents = {name: kept.latents(batch, name) for name in ("source", "target")}
    features = kept.context.features(batch.instruction, {})
    stored = replace(batch, videos={}, latents=latents, features=features)
    conditions = system.conditions(stored)
    assert system.latents(stored, "target") is not None
    assert torch.equal(conditions.context.tokens, kept.conditions(batch).context.tokens)
    assert [visitor.visits for visitor in system.visitors] == [0, 0]


def test_a_tower_that_trains_stays() -> None:
    system = resting(finetune=FinetunePlan(tower=Full()))
    assert [type(visitor.module).__name__ for visitor in system.visitors] == ["WanVAE"]


def test_visits_within_a_visit_are_one() -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    visitor = Visitor(layer, lambda: torch.device("cpu"))
    visitor.go_home()
    with visitor.visiting(), visitor.visiting():
        pass
    assert visitor.visits == 1


def test_a_failure_ends_the_visit() -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    visitor = Visitor(layer, lambda: torch.device("cpu"))
    visitor.go_home()
    with pytest.raises(ZeroDivisionError), visitor.visiting():
        _ = 1 / 0
    with visitor.visiting():
        pass
    assert visitor.visits == 2


def test_a_training_with_resting_encoders(tmp_path: Path) -> None:
    tree = make_config(make_shards(tmp_path / "shards"), tmp_path / "runs")
    tree["model"]["idle"] = "offload"
    config = write_config(tmp_path / "tiny.yaml", tree)
    assert main(["fit", "--config", str(config), "--trainer.max_steps", "1"]) in (0, None)


@pytest.mark.gpu
def test_the_device_holds_no_encoder_between_uses() -> None:
    system = built(idle="offload", backbone=lambda: WanDiT(**BACKBONE)).cuda()
    before = torch.cuda.memory_allocated()
    system.on_fit_start()
    codec, tower = system.visitors
    home = sum(p.nbytes for v in (codec, tower) for p in v.module.parameters())
    assert torch.cuda.memory_allocated() <= before - home
    assert all(p.device.type == "cpu" for p in codec.module.parameters())
    latents = system.codec.encode(make_batch().videos["source"].cuda())
    assert latents.is_cuda
    assert all(p.device.type == "cpu" for p in codec.module.parameters())
