"""`vedit fit` on two tasks of a Slurm job, as Lightning finds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.test_fit import config

from vedit.parallel.checkpoint import is_sharded

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_two_tasks_train_one_model(cluster: Any, tmp_path: Path) -> None:
    path, log = config(tmp_path), tmp_path / "log"
    fit = f"{sys.executable} -m vedit fit --config {path}"
    job = [
        "sbatch", "--wait", "--nodes=1", "--ntasks-per-node=2", "--time=10", f"--output={log}",
        f"--wrap=srun --kill-on-bad-exit=1 {fit}",
    ]  # fmt: skip
    done = subprocess.run(job, capture_output=True, text=True, timeout=500)
    said = log.read_text() if log.is_file() else ""
    assert done.returncode == 0, done.stderr + said
    assert is_sharded(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt")
    assert "MEMBER: 2/2" in said
