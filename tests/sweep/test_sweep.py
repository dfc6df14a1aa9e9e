"""Sweeps that run: what is killed goes on where it was, and the table does not show it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.sweep.tiny_grid import METRICS, start, stop_started, write_grid

from vedit.cli import main
from vedit.evaluation.curve import read_losses
from vedit.sweep.collect import collect
from vedit.sweep.records import Outcome
from vedit.sweep.state import read_state

HOLD = {
    "trainer.callbacks+": {
        "class_path": "tests.sweep.holding.HoldAt",
        "init_args": {"step": 2, "flag": "hold"},
    }
}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    stop_started()


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[str], limit: float = 900
) -> Any:
    """What the condition gives, as soon as it gives something; fails if the process ends first."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        if found := condition():
            return found
        if process.poll() is not None:
            said = process.communicate()
            raise AssertionError(f"ended with {process.returncode}: {said}")
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, err
    return out


def by_name(folder: Path) -> dict[str, Outcome]:
    return {outcome.cell.name: outcome for outcome in collect(folder)}


def training_of(run: Path) -> int:
    """The process id of a run's training, which is the child of its worker."""
    worker = read_state(run).process
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    return int(children[0]) if children else 0


def kill(sweep: subprocess.Popen[str], *others: int) -> None:
    for process in (sweep.pid, *others):
        os.kill(process, signal.SIGKILL)
    sweep.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_killed_sweeps_and_runs_end_in_the_same_table(tmp_path: Path) -> None:
    write_grid(tmp_path, overrides=HOLD, budget={"steps": 4})
    hold, folder = tmp_path / "hold", tmp_path / "killed"
    again = ("grid.yaml", "--output", "killed", "--max-retries", "1")

    sweep = start(*again, folder=tmp_path)
    first = wait_for(
        lambda: (folder / "sweep.json").exists() and by_name(folder)["source=after"], sweep
    ).folder
    wait_for(lambda: read_state(first).phase == "finished", sweep)
    hold.touch()
    other = by_name(folder)["source=before"].folder
    wait_for(lambda: hold.read_text() == "reached", sweep)
    finished_log = (first / "log.txt").read_text()

    # A second sweep in the folder is told so, and nothing happens to the first.
    refused = start(*again, folder=tmp_path)
    assert "vedit sweep, process" in refused.communicate(timeout=900)[1]
    assert refused.returncode == 1

    # The training alone: it is tried again, and goes on from its checkpoint.
    hold.write_text("")
    os.kill(training_of(other), signal.SIGKILL)
    wait_for(lambda: hold.read_text() == "reached", sweep)

    # The sweep, the run's worker and its training, all at once.
    kill(sweep, read_state(other).process, training_of(other))
    until = time.monotonic() + 30  # they take a moment to die
    while by_name(folder)["source=before"].state == "running" and time.monotonic() < until:
        time.sleep(0.1)
    killed = by_name(folder)["source=before"]
    assert (killed.state, killed.note) == ("waiting", "was killed")

    # The sweep and the worker: the same command stops the training that goes on by itself.
    hold.write_text("")
    sweep = start(*again, folder=tmp_path)
    wait_for(lambda: hold.read_text() == "reached", sweep)
    kill(sweep, read_state(other).process)
    assert by_name(folder)["source=before"].state == "running"
    sweep = start(*again, folder=tmp_path)
    finish(sweep)
    assert (first / "log.txt").read_text() == finished_log
    log = (other / "log.txt").read_text()
    fits = [line for line in log.splitlines() if line.startswith("$ vedit fit")]
    assert ["--ckpt_path" in line for line in fits] == [False, True, True, True]

    hold.unlink()
    finish(start("grid.yaml", "--output", "calm", "--only", "before", folder=tmp_path))
    calm, killed = by_name(tmp_path / "calm")["source=before"], by_name(folder)["source=before"]
    assert (calm.state, killed.state) == ("finished", "finished")
    assert set(killed.metrics) == set(METRICS)
    assert killed.metrics == calm.metrics
    assert killed.per_clip == calm.per_clip
    assert len(killed.per_clip["gain"]) > 0
    # The step that Ctrl-C interrupts is trained, but what it logs is not written.
    curves = [dict(read_losses(o.folder, ("train/loss",))["train/loss"]) for o in (killed, calm)]
    assert curves[0].items() <= curves[1].items()
    assert set(curves[1]) - set(curves[0]) <= {2}
    weights = [
        torch.load(o.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for o in (calm, killed)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=0)


@pytest.mark.slow
def test_cancelling_stops_a_sweep_which_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path, overrides=HOLD, budget={"steps": 4}, metrics={"loss": "train/loss"})
    hold, folder = tmp_path / "hold", tmp_path / "runs" / "sweeps" / "grid"
    hold.touch()
    sweep = start("grid.yaml", folder=tmp_path, background=True)
    wait_for(lambda: hold.read_text() == "reached", sweep)
    assert main(["sweep", "status", "grid.yaml"]) == 0
    said = capsys.readouterr().out
    assert "running  step 2/4  loss" in said
    assert said.splitlines()[-1] == "2 runs: 1 running, 1 waiting"

    assert "2 runs: 2 cancelled" in finish(start("cancel", str(folder), folder=tmp_path))
    finish(sweep, code=130)
    run = by_name(folder)["source=after"].folder
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3
    assert json.loads((run / "state.json").read_text())["phase"] == "cancelled"

    hold.unlink()
    finish(start("grid.yaml", "--only", "after", folder=tmp_path))
    states = {name: outcome.state for name, outcome in by_name(folder).items()}
    assert states == {"source=after": "finished", "source=before": "cancelled"}
