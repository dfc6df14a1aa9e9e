"""A grid over an editor of a few thousand parameters, as small as a sweep gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tests.tiny import ROOT, make_config, make_shards, write_config

AXES: dict[str, Any] = {
    "source": {
        "after": None,
        "before": {"model.source.time": "before"},
    },
}
METRICS: dict[str, Any] = {
    "loss": {"key": "train/loss", "better": "lower", "digits": 4},
    "gain": {"key": "held_out.psnr_gain", "better": "higher"},
}


def write_grid(folder: Path, **changes: Any) -> Path:
    """A grid file with the experiment and the data that it needs; null takes a key out."""
    shards = make_shards(folder / "shards", 4)
    tree = make_config(shards, folder / "runs")
    tree["trainer"]["callbacks"].append({"class_path": "EditReport"})
    tree["trainer"]["callbacks"][0]["init_args"] = {"every_n_steps": 1, "keep": 0}
    write_config(folder / "base.yaml", tree)
    grid = {
        "base": "base.yaml",
        "axes": AXES,
        "seeds": [0],
        "metrics": METRICS,
        "budget": {"steps": 2},
        **changes,
    }
    grid = {key: value for key, value in grid.items() if value is not None}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


STARTED: list[subprocess.Popen[str]] = []


def stop_started() -> None:
    """End what a failed test left; a run stops when its sweep is gone."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


IGNORING = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""As a shell starts what a script puts in the background."""


def start(*words: str, folder: Path, background: bool = False) -> subprocess.Popen[str]:
    """`vedit sweep` in a process and a session of its own; in the background SIGINT is ignored."""
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = dict.fromkeys([str(ROOT / "src"), str(ROOT), *known])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [*(IGNORING if background else ()), sys.executable, "-m", "vedit", "sweep", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process
