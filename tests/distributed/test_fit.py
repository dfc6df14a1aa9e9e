"""`vedit fit` on two processes: launched by itself, by torchrun on two nodes, and losing one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import make_config, make_shards, write_config

from vedit.cli import main
from vedit.editor.checkpoint import load_trained
from vedit.finetune.trained import read_trained
from vedit.parallel.checkpoint import is_sharded

pytestmark = pytest.mark.slow


def config(folder: Path, **trainer: Any) -> Path:
    tree = make_config(make_shards(folder / "shards", 8), folder / "runs")
    tree["trainer"] |= {
        "devices": 2,
        "strategy": "FSDP2",
        "max_steps": 2,
        "limit_val_batches": 0,
        "gradient_clip_val": 1.0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "callbacks": [{"class_path": "PeriodicCheckpoint", "init_args": {"every_n_steps": 2}}],
        **trainer,
    }
    return write_config(folder / "tiny.yaml", tree)


def start(*command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], log: Path, seconds: float = 400) -> str:
    try:
        code = process.wait(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert code == 0, text
    return text


def test_a_run_of_two_processes_is_edited_exported_and_resumed(tmp_path: Path) -> None:
    path, log = config(tmp_path), tmp_path / "log"
    finish(start("vedit", "fit", "--config", str(path), log=log), log)
    run = tmp_path / "runs" / "tiny"
    last = run / "checkpoints" / "last.ckpt"
    assert is_sharded(last)

    state = read_trained(run)
    system = load_trained(run).system
    assert system.trained_state().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in system.trained_state().items())
    exported = tmp_path / "exported"
    export = ["export", "--checkpoint", str(run), "--format", "diffusers"]
    assert main([*export, "--output", str(exported)]) == 0
    assert len(list((exported / "transformer").glob("*.safetensors"))) == 1

    more = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_steps", "3"]
    assert main(["fit", "--config", str(path), "--ckpt_path", str(last), *more]) == 0
    again = run / "checkpoints" / "last.ckpt"
    assert again.is_file()
    assert torch.load(again, weights_only=True)["global_step"] == 3


def test_two_nodes_by_torchrun(tmp_path: Path) -> None:
    path = config(tmp_path, devices=1, num_nodes=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [tmp_path / f"log{node}" for node in (0, 1)]
    nodes = [
        start(
            "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1",
            f"--master-port={port}", "--master-addr=127.0.0.1",
            "-m", "vedit", "fit", "--config", str(path), log=log,
        )
        for node, log in enumerate(logs)
    ]  # fmt: skip
    for node, log in zip(nodes, logs, strict=True):
        finish(node, log)
    assert is_sharded(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt")


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in found]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_dead_rank_ends_the_other_and_is_named(lost: int, tmp_path: Path) -> None:
    path, log = config(tmp_path, max_steps=1_000_000), tmp_path / "log"
    first = start("vedit", "fit", "--config", str(path), log=log)
    try:
        deadline = time.monotonic() + 400
        while not is_sharded(tmp_path / "runs" / "tiny" / "checkpoints" / "last.ckpt"):
            assert time.monotonic() < deadline, log.read_text()
            assert first.poll() is None, log.read_text()
            time.sleep(0.2)
        (second,) = [pid for pid in children(first.pid) if b"LOCAL_RANK=1" in environ(pid)]
        pids = [first.pid, second]
        killed = time.monotonic()
        os.kill(pids[lost], signal.SIGKILL)
        if lost == 0:
            first.wait()
        while Path(f"/proc/{pids[1 - lost]}").exists() and not ended(first, pids[1 - lost]):
            assert time.monotonic() - killed < 60, log.read_text()
            time.sleep(0.1)
        took = time.monotonic() - killed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    print(f"rank {lost} lost: the other ended after {took:.1f} s")
    assert took < 60
    assert f"vedit: rank {lost} (process {pids[lost]} on " in log.read_text()
    assert "died; ending the other ranks" in log.read_text()


def ended(first: subprocess.Popen[bytes], pid: int) -> bool:
    return pid == first.pid and first.poll() is not None


def environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
