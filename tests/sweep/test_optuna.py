"""A search over the axes: it runs the cells it is told to, learns from them, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.sweep.tiny_grid import start, write_grid

from vedit.cli import main
from vedit.cli.sweep_experiments import ComposedExperiments
from vedit.errors import ConfigError
from vedit.sweep.collect import collect
from vedit.sweep.folder import Recorded, SweepFolder
from vedit.sweep.grid import read_grid
from vedit.sweep.launchers.local import Local
from vedit.sweep.launchers.optuna import Optuna
from vedit.sweep.plan import make_plan
from vedit.sweep.state import write_state

pytest.importorskip("optuna", reason="needs optuna: pip install vedit[optuna]")

AXES = {
    "rate": {str(i): {"model.optimizer.lr": 10.0**-i} for i in range(1, 6)},
    "decay": {str(i): {"model.optimizer.weight_decay": i / 10} for i in range(5)},
}
GAIN = {"key": "held_out.psnr_gain", "better": "higher"}
LOSS = {"key": "held_out.psnr_edit", "better": "lower"}  # the same numbers, wanted the other way
BEST = {"rate": "3", "decay": "2"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A sweep of 25 cells whose runs end at once, better the nearer they are to the best one."""
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path, axes=AXES, metrics={"gain": GAIN, "loss": LOSS})
    experiments = ComposedExperiments()
    plan = make_plan(read_grid("grid.yaml", experiments), experiments)
    made = SweepFolder(tmp_path / "sweep")
    options = {cell.digest: cell.options for cell in plan.cells}

    def finish(
        self: Local, folder: SweepFolder, runs: Sequence[Recorded], tick: Callable[[], None]
    ) -> None:
        for run in runs:
            far = sum(abs(int(options[run.digest][axis]) - int(BEST[axis])) for axis in BEST)
            report = {"held_out": {"psnr_gain": -float(far), "psnr_edit": -float(far)}}
            (folder.run(run.digest) / "report.json").write_text(json.dumps(report))
            write_state(folder.run(run.digest), phase="finished", fitted=True, tested=True)
        tick()

    monkeypatch.setattr(Local, "launch", finish)
    made.root.mkdir()
    made.write(plan, {"class_path": "vedit.sweep.launchers.local.Local"}, 0)
    return made


def search(folder: SweepFolder, **arguments: object) -> dict[str, float]:
    """The gain of every cell that has been run."""
    _, cells, runs, _ = folder.read()
    todo = [runs[cell.digest] for cell in cells if not folder.is_finished(runs[cell.digest])]
    Optuna(**arguments).launch(folder, todo, lambda: None)  # type: ignore[arg-type]
    done = [o for o in collect(folder.root) if o.state == "finished"]
    return {o.cell.name: o.metrics["gain"] for o in done}


def test_what_cells_gave_decides_which_come_next(folder: SweepFolder) -> None:
    high = search(folder, trials=16)
    for state in folder.root.glob("runs/*/*.json"):
        if state.name in ("state.json", "report.json"):
            state.unlink()
    low = search(folder, trials=16, metric="loss")
    assert (len(high), len(low)) == (16, 16)
    assert len(high.keys() & low.keys()) >= 10  # as many as the sampler draws at random
    assert set(high) != set(low)


def test_a_search_goes_on_from_what_has_finished(folder: SweepFolder) -> None:
    first = search(folder, trials=5)
    assert len(first) == 5
    assert search(folder, trials=5) == first
    longer = search(folder, trials=8)
    assert len(longer) == 8
    assert first.items() <= longer.items()


def test_a_search_ends_when_every_cell_has_been_run(folder: SweepFolder) -> None:
    assert len(search(folder, trials=100, sampler="RandomSampler", jobs=4)) == 25


def test_mistakes_are_one_line(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError, match=r"no 'TPESampling'\. Did you mean 'TPESampler'"):
        search(folder, sampler="TPESampling")
    with pytest.raises(ConfigError, match="collects no 'gian'. Did you mean 'gain'"):
        search(folder, metric="gian")
    with pytest.raises(ConfigError, match=r"launcher\.trials: expected a number above 0"):
        Optuna(trials=0)


@pytest.mark.slow
def test_a_real_search_runs_as_many_cells_as_it_is_given(tmp_path: Path) -> None:
    write_grid(tmp_path, metrics={"loss": "train/loss"})
    words = ("grid.yaml", "--output", "sweep", "--launcher", "optuna", "--launcher.trials", "1")
    process = start(*words, folder=tmp_path)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    states = sorted(outcome.state for outcome in collect(tmp_path / "sweep"))
    assert states == ["finished", "waiting"]
    assert "loss" in out
    assert main(["sweep", "status", str(tmp_path / "sweep")]) == 0
