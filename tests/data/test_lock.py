"""Two processes never write into one folder, and a killed one leaves nothing locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.clips import moving, write_clip
from tests.data.samples import sample, write_folder
from tests.tiny import ROOT

from vedit.cli import main
from vedit.data.index import build_index, read_index
from vedit.data.lock import LOCK_NAME, writing
from vedit.errors import DataError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@contextmanager
def another_process(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, time; from vedit.data.lock import writing\n"
        "with writing(sys.argv[1], 'vedit data build'): print('held', flush=True); time.sleep(60)"
    )
    with another_process("-c", code, str(folder)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_a_build_killed_half_way_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", moving(12, 16, 24))
    build = {"clips": str(tmp_path / "clips"), "edits": ["sepia"], "frames": 5}
    build |= {"height": 16, "width": 24, "shard_size": 4}

    def config(name: str, windows: int) -> list[str]:
        split = {"output": str(tmp_path / "train"), "windows": windows}
        path = tmp_path / name
        path.write_text(json.dumps({"build": build, "splits": {"train": split}}))
        return ["data", "build", "--config", str(path)]

    endless = config("long.json", 100_000)
    with another_process("-m", "vedit", *endless) as first:
        assert first.stdout is not None
        first.stdout.readline()  # the first shard is there
        assert main(endless) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path / 'train'}: another process is writing here" in said
        assert f"vedit data build, process {first.pid} on " in said
        assert said.count("\n") == 1
        kill(first)
    (tmp_path / "train" / "build.json").unlink()  # a shorter build, to see it end
    for shard in sorted((tmp_path / "train").glob("*.tar"))[2:]:
        shard.unlink()
    assert main(config("short.json", 8)) == 0
    assert len(read_index(tmp_path / "train")) == 8
    assert (tmp_path / "train" / LOCK_NAME).read_text() == ""


def test_encode_and_index_wait_for_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    write_folder(folder, [sample(0)])
    # A codec that does not exist: whether the folder is free is asked first.
    encode = ["data", "encode", str(folder), "--codec", str(tmp_path / "none")]
    with held_elsewhere(folder) as other:
        for command in (encode, ["data", "index", str(folder)]):
            assert main(command) == 1
            assert f"process {other.pid} on" in capsys.readouterr().err
        kill(other)
        assert main(encode) == 1
        assert "no such folder" in capsys.readouterr().err
        assert len(build_index(folder, progress=lambda line: None)) == 1


def test_a_lock_ends_with_its_block_even_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path, "one"):
        raise RuntimeError
    with writing(tmp_path, "two"), pytest.raises(DataError, match="here \\(two, process"):
        writing(tmp_path, "three").__enter__()


@pytest.mark.slow
def test_workers_leave_with_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    """A killed build's workers would go on writing into a folder that is free by then."""
    code = (
        "import os, sys\n"
        "from multiprocessing import get_context\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from vedit.engine.build import _start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), _start_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(__import__('time').sleep, 60).result()\n"
    )
    script = tmp_path / "pool.py"
    script.write_text(code)
    with another_process(str(script)) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        kill(parent)
        for _ in range(100):
            if not _runs(worker):
                return
            time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its parent")


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
