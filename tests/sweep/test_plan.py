"""Cells are composed, checked and built before the first one runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sweep.tiny_grid import AXES, METRICS, write_grid

from vedit.cli import main
from vedit.cli.sweep_experiments import ComposedExperiments
from vedit.cli.yaml_file import read_yaml
from vedit.sweep.folder import SweepFolder
from vedit.sweep.grid import read_grid
from vedit.sweep.plan import Plan, make_plan

CELLS = ("source=after", "source=before")


def plan(folder: Path, **changes: Any) -> Plan:
    experiments = ComposedExperiments()
    return make_plan(read_grid(str(write_grid(folder, **changes)), experiments), experiments)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan(tmp_path_factory.mktemp("grid"), seeds=[0, 1])


def test_runs_are_named_by_what_they_are(planned: Plan, tmp_path: Path) -> None:
    assert [(cell.name, cell.seed) for cell in planned.cells] == [
        (name, seed) for name in CELLS for seed in (0, 1)
    ]
    assert len(planned.runs) == 4
    for cell in planned.cells:
        config = planned.runs[cell.digest].config
        assert {config["seed_everything"], config["model"]["seed"], config["data"]["seed"]} == {
            cell.seed
        }
        assert config["trainer"]["max_steps"] == 2


def test_a_changed_cell_is_another_run_and_the_others_stay(planned: Plan) -> None:
    folder = Path(planned.grid.file).parent
    axes = {"source": {**AXES["source"], "before": {"model.source.offset": 3}}}
    changed = plan(folder, seeds=[0, 1], axes=axes)
    before, after = ([cell.digest for cell in p.cells] for p in (planned, changed))
    assert before[:2] == after[:2]
    assert not set(before[2:]) & set(after[2:])
    shorter = plan(folder, seeds=[0, 1], budget={"steps": 1})
    assert not {cell.digest for cell in shorter.cells} & set(before)


def test_stages_come_first_and_are_shared(tmp_path: Path) -> None:
    last = {"one": {"model.source.offset": 0}, "two": {"model.source.offset": 1}}
    warm = {"warm": {"stages": [{"name": "images", "share": 0.25, "model.source.offset": 2}]}}
    found = plan(tmp_path, axes={"last": last, "curriculum": warm}, budget={"steps": 4})
    first, second = (found.chain(cell.digest) for cell in found.cells)
    assert [run.steps for run in first] == [1, 3]
    assert first[0].digest == second[0].digest
    assert not first[0].tested
    assert first[1].tested
    folder = SweepFolder(tmp_path / "sweep")
    start = folder.placed(first[1])["model"]["init_from"]
    assert start == str(folder.run(first[0].digest))


def test_cells_that_fill_batches_by_tokens_match_in_operations(tmp_path: Path) -> None:
    added = {"model.source": {"class_path": "vedit.conditioning.add.AddToTokens"}}
    made = plan(
        tmp_path,
        axes={"source": {"after": None, "added": added}},
        overrides={"data.tokens_per_batch": 50},
        budget={"steps": 100, "match": "flops"},
    )
    after, add = (made.runs[cell.digest] for cell in made.cells)
    assert (after.facts.tokens, add.facts.tokens) == (24, 12)  # two samples a batch, and four
    assert after.steps == 100
    assert after.flops == 100 * 2 * after.facts.step_flops
    assert add.steps == round(after.flops / (4 * add.facts.step_flops))


def test_an_overlay_goes_over_earlier_stages_and_under_options(tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text("trainer: {log_every_n_steps: 7}\ndata: {batch_size: 3}\n")
    (tmp_path / "option.yaml").write_text("trainer: {log_every_n_steps: 9}\n")
    overlay = tmp_path / "small.yaml"
    overlay.write_text("trainer: {log_every_n_steps: 8}\n")
    stages = [{"name": "first", "share": 0.5, "extends": "stage"}]
    axes = {
        "curriculum": {"two": {"stages": stages}},
        "logs": {"as they are": None, "seldom": {"extends": "option"}},
    }
    file = write_grid(tmp_path, axes=axes, budget={"steps": 2})
    experiments = ComposedExperiments()
    found = make_plan(read_grid(str(file), experiments, [str(overlay)]), experiments)
    configs = [[run.config for run in found.chain(cell.digest)] for cell in found.cells]
    every = [[config["trainer"]["log_every_n_steps"] for config in chain] for chain in configs]
    assert every == [[8, 8], [9, 9]]
    assert [config["data"]["batch_size"] for config in configs[0]][0] == 3
    assert configs[0][1]["data"]["batch_size"] != 3


def test_a_digest_that_looks_like_a_number_stays_a_name(planned: Plan, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    for digest in ("2391e6463016", "123456789012", "00000e000000"):
        run = replace(next(iter(planned.runs.values())), digest=digest)
        folder.write(replace(planned, runs={digest: run}), {}, 0)
        config = read_yaml(folder.run(digest) / "experiment.yaml")
        assert config == folder.placed(run)
        assert config["name"] == digest


def test_dry_run_tells_cells_and_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = {"source": {**AXES["source"], "none": {"model.source": None}}}
    file = write_grid(tmp_path, axes=axes, budget={"steps": 4, "match": "flops"})
    assert main(["sweep", file.name, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "source=after  (baseline)" in said
    assert "    model.source.time: none -> before" in said
    assert "    model.source: AppendTokens -> null" in said
    rows = {line.split()[0]: line.split() for line in said.splitlines() if " seed 0 " in line}
    assert {name: row[4] for name, row in rows.items()} == {
        "source=after": "4",
        "source=before": "4",
        "source=none": "8",  # half the tokens
    }
    assert "3 cells x 1 seed: 3 runs, 0 done, 3 to do" in said
    assert not (tmp_path / "runs").exists()


def test_every_mistake_of_every_cell_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = {
        "typo": {"model.source.tme": "before"},
        "value": {"model.source.time": "behind"},
        "unfit": {"model.codec.config": {"base_dim": 4, "z_dim": 8}},
    }
    metrics = {**METRICS, "speed": "speed/step_seconds", "won": "held_out.wins"}
    file = write_grid(tmp_path, axes={"source": {**AXES["source"], **broken}}, metrics=metrics)
    assert main(["sweep", file.name]) == 2
    said = [line.removeprefix("vedit: ") for line in capsys.readouterr().err.splitlines()]
    where = f"{file.name}: "
    assert any(
        line.startswith(
            f"{where}cell source=typo: model.source.init_args.tme: unknown key. Did you"
        )
        for line in said
    )
    assert any(line.startswith(f"{where}cell source=value: model.source") for line in said)
    assert any(line.startswith(f"{where}cell source=unfit: ") for line in said)
    assert any(
        line.startswith(f"{where}metrics.speed: no run gives 'speed/step_seconds'.")
        for line in said
    )
    assert any(
        line.startswith(f"{where}metrics.won: no run gives 'held_out.wins'.") for line in said
    )
    assert len(said) == 5, said
    assert not (tmp_path / "runs").exists()
