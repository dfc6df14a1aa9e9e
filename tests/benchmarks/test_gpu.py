"""The GPU benchmark, all of it at toy size, so that one call with a GPU fills the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, *arguments: str) -> tuple[str, dict]:
    output = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--output", str(output), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())


def test_a_step_ours_and_the_peers(tmp_path):
    rows = "6 of 30 blocks: eager, keeps all$|easyv2v 480p: peer"
    printed, results = run(tmp_path, "--only", rows)
    ours, peer = sorted(results["rows"], key=lambda row: "peer" in row["name"])
    assert ours["seconds"] > 0
    assert peer["seconds"] > 0
    assert 0 < ours["petaflop_published"] < ours["petaflop"]
    assert ours["tokens"] == 2 * 12  # target and source of 3 x 2 x 2 patches
    assert "MFU" in printed
    assert {"gpu", "torch", "date", "command"} <= results["machine"].keys()


@pytest.mark.slow
def test_rows_that_would_begin_too_late_are_left_out_and_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--tiny", "--seconds", "-1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left out, no time") >= 10


@pytest.mark.slow
def test_every_row_runs_at_toy_size(tmp_path):
    _, results = run(tmp_path)
    assert len(results["rows"]) >= 15
    for row in results["rows"]:
        assert not row["failure"], row
