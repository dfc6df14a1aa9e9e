"""Sweeps on a real Slurm: arrays, time limits, jobs and nodes that go away."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.conftest import Cluster
from tests.sweep.tiny_grid import AXES, METRICS, start, stop_started, write_grid
from tests.tiny import ROOT

from vedit.cli import main
from vedit.sweep.collect import collect
from vedit.sweep.records import Outcome
from vedit.sweep.state import read_state

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

HOLD = {"class_path": "tests.sweep.holding.HoldAt", "init_args": {"step": 2, "flag": "hold"}}
HELD = {"trainer.callbacks+": HOLD}
SLURM = ("--launcher", "slurm", "--launcher.poll", "1")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    pytest.importorskip("submitit", reason="needs submitit: pip install vedit[slurm]")
    yield
    stop_started()


def wait_for(condition: Callable[[], Any], what: str, limit: float = 400) -> Any:
    until = time.monotonic() + limit
    while time.monotonic() < until:
        if found := condition():
            return found
        states = list(Path.cwd().glob("sweep/runs/*/state.json"))
        failed = [path for path in states if read_state(path.parent).phase == "failed"]
        assert not failed, (failed[0].parent / "log.txt").read_text()
        time.sleep(0.5)
    queue = subprocess.run(["squeue", "-t", "all"], capture_output=True, text=True).stdout
    raise AssertionError(f"waited in vain for {what}:\n{queue}")


def by_name(folder: Path) -> dict[str, Outcome]:
    return {outcome.cell.name: outcome for outcome in collect(folder)}


def job_of(outcome: Outcome) -> str:
    return str(json.loads((outcome.folder / "job.json").read_text())["id"])


def test_an_array_outlives_its_time_limit(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = {"source": {**AXES["source"], "before": {**AXES["source"]["before"], **HELD}}}
    write_grid(tmp_path, axes=axes, budget={"steps": 4})
    hold, folder = tmp_path / "hold", tmp_path / "sweep"
    hold.touch()
    limits = ("--launcher.time", "2", "--launcher.signal_delay", "30")
    sweep = start("grid.yaml", "--output", "sweep", *SLURM, *limits, folder=tmp_path)
    wait_for(lambda: (folder / "runs").exists() and list(folder.glob("runs/*/job.json")), "jobs")
    held = by_name(folder)["source=before"]
    wait_for(lambda: hold.read_text() == "reached", "the held step")
    wait_for(lambda: read_state(held.folder).phase == "interrupted", "the time limit")
    hold.unlink()
    out, err = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, err
    assert "gain" in out

    found = by_name(folder)
    assert {outcome.state for outcome in found.values()} == {"finished"}
    assert all(set(outcome.metrics) == set(METRICS) for outcome in found.values())
    jobs = [job_of(outcome) for outcome in found.values()]
    assert [job.partition("_")[2] for job in jobs] == ["0", "1"]
    log = (held.folder / "log.txt").read_text().splitlines()
    fits = [line for line in log if line.startswith("$ vedit fit")]
    assert ["--ckpt_path" in line for line in fits] == [False, True]
    steps = [int(line.split()[1].split("/")[0]) for line in log if line.startswith("step ")]
    assert steps == sorted(set(steps))  # nothing twice: the checkpoint was of the held step
    assert steps[-1] == 4


def test_cancelled_jobs_and_dead_nodes_show(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/src:{ROOT}:{known}")  # for the jobs
    write_grid(tmp_path, overrides=HELD, budget={"steps": 4}, metrics={"loss": "train/loss"})
    hold, folder = tmp_path / "hold", tmp_path / "sweep"
    hold.touch()
    words = ["sweep", "grid.yaml", "--output", "sweep", *SLURM, "--launcher.detach", "true"]
    assert main(words) == 0
    wait_for(lambda: hold.read_text() == "reached", "the held step")

    def status() -> dict[str, str]:
        capsys.readouterr()
        assert main(["sweep", "status", "sweep"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line for line in lines if line.startswith("source=")}

    wait_for(lambda: all("running" in line for line in status().values()), "both to run")
    subprocess.run(["scancel", job_of(by_name(folder)["source=after"])], check=True)
    wait_for(lambda: "cancelled" in status()["source=after"], "the cancelled job to show")
    assert "running" in status()["source=before"]

    cluster.kill_node()
    try:
        wait_for(
            lambda: (
                "is not responding" in status()["source=before"]
                or "is down" in status()["source=before"]
            ),
            "the dead node to show",
        )
    finally:
        cluster.start_node()
    assert main(["sweep", "cancel", "sweep"]) == 0
    wait_for(lambda: all("  cancelled" in line for line in status().values()), "both to be gone")
