"""Batches of samples of unlike shapes, from shards to a step of a training."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.samples import sample, write_folder
from tests.data.test_mixture import records, tokens_of
from tests.tiny import built, make_config, write_config

from vedit.batch import UnlikeBatch
from vedit.cli import main
from vedit.data.dataset import BatchDataset, EditDataset
from vedit.data.mixture import Mixture
from vedit.data.plan import Draw


def shards(folder: Path) -> Path:
    """Videos of 5 and of 9 frames, and images."""
    lengths = [5, 9, 1, 5, 9, 1]
    write_folder(folder, [sample(i, frames=n) for i, n in enumerate(lengths)])
    return folder


def test_batches_mix_shapes_but_never_conditions() -> None:
    rows = [records("ivlivlrrmmss")]
    plan = Mixture({"a": 1.0}, batch_size=3, pack=True).plan(rows, 1, tokens_of)
    seen = []
    for batch in plan.epoch(0):
        there = [rows[0][draw.sample] for draw in batch]
        assert len({(r.has_mask, r.references) for r in there}) == 1
        seen.append({r.frames for r in there})
    assert max(map(len, seen)) > 1, "no batch mixes shapes"


def test_a_budget_holds_even_if_all_are_the_largest() -> None:
    rows = [records("iiiivvvvllll")]
    plan = Mixture({"a": 1.0}, tokens_per_batch=80, pack=True).plan(rows, 1, tokens_of)
    assert [len(batch) for batch in plan.epoch(0)] == [2] * 6  # a long video makes 36 tokens


def test_weights_of_kinds_still_count() -> None:
    rows = [records("iiiivvvv")]
    mixture = Mixture({"a": 1.0}, {"image": 2.0}, batch_size=2, pack=True)
    drawn = [draw for batch in mixture.plan(rows, 1, tokens_of).epoch(0) for draw in batch]
    assert Counter(rows[0][d.sample].task for d in drawn) == {"image": 8, "video": 4}


def batch_of(folder: Path) -> UnlikeBatch:
    dataset = EditDataset(shards(folder))
    batch = BatchDataset([dataset], pack=True)[[Draw(0, i, 0) for i in range(3)]]
    assert isinstance(batch, UnlikeBatch)
    return batch


def test_samples_stay_apart(tmp_path: Path) -> None:
    batch = batch_of(tmp_path)
    assert len(batch) == 3
    assert [part.videos["target"].shape[2] for part in batch.parts] == [5, 9, 1]
    assert batch.keys == tuple(part.keys[0] for part in batch.parts)
    assert batch.to("cpu").parts[1].keys == batch.parts[1].keys


class Trained:
    """What a step asks of a trainer."""

    accumulate_grad_batches = 1
    global_step = 0


def test_the_loss_of_a_step_is_the_mean_of_the_samples_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the noise that it is given in the batch."""
    system = built()
    monkeypatch.setattr(type(system), "trainer", Trained(), raising=False)
    monkeypatch.setattr(type(system), "global_step", 0, raising=False)
    monkeypatch.setattr(type(system), "data_rank", 0, raising=False)
    monkeypatch.setattr(system, "log", lambda *args, **kwargs: None)
    batch = batch_of(tmp_path)
    loss = system.training_step(batch, 0)
    mine, _ = system._generators(0)
    alone = []
    for part in batch.parts:
        noised = system._noised(part, mine)
        alone.append(noised.error(system(noised.x_t, noised.sigma, noised.conditions)))
    torch.testing.assert_close(loss, torch.cat(alone).mean())


def test_a_training_packs_by_yaml(tmp_path: Path) -> None:
    tree: dict[str, Any] = make_config(shards(tmp_path / "shards"), tmp_path / "runs")
    tree["data"] |= {"pack": True, "tokens_per_batch": 100, "validation": None, "test": None}
    tree["trainer"]["callbacks"] = [
        {"class_path": "SystemSummary"},
        {"class_path": "Throughput"},
        *copy.deepcopy(tree["trainer"]["callbacks"]),
    ]
    path = write_config(tmp_path / "tiny.yaml", tree)
    assert main(["fit", "--config", str(path)]) == 0
