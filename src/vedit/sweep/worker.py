"""Carry out one run: train, from the last checkpoint if there is one, then test.

    python -m vedit.sweep.worker FOLDER

The commands are `vedit fit` and `vedit test`, in processes of their own; what they print goes to
`log.txt` in the run's folder.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from vedit.sweep.serial import read_json
from vedit.sweep.state import RunState, holding, read_state, write_state

INTERRUPTED, FAILED = 130, 1
PATIENCE = 60.0
"""Seconds an interrupted training has to write its checkpoint."""


class Worker:
    """Carries out one run.

    Args:
        folder: of the run, with `experiment.yaml` and `run.json`.
        writes: whether this process keeps the run's state; with several processes to a run, one.
        patience: seconds an interrupted training has to write its checkpoint.
    """

    def __init__(self, folder: Path, writes: bool = True, patience: float = PATIENCE) -> None:
        self.folder, self.writes, self.patience = folder, writes, patience
        self.record = read_json(folder / "run.json") or {}
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self._parent = os.getppid()

    def run(self) -> int:
        """Do what is left to do.

        Returns:
            0 when the run is finished, 130 if it was interrupted, 1 if it failed.
        """
        if not self.writes:
            return self._run(())
        try:
            with holding(self.folder) as lock:
                return self._run((lock,))
        except BlockingIOError:
            stop_orphan(self.folder, self.patience)
            with holding(self.folder) as lock:
                return self._run((lock,))

    def interrupt(self) -> None:
        """Have the training write a checkpoint and stop, and wait until it has."""
        self.stopping = True
        if self.child is None or self.child.returncode is not None:
            return
        self.child.send_signal(signal.SIGINT)
        until = time.monotonic() + self.patience
        while not _has_ended(self.child):
            if time.monotonic() > until:
                os.kill(self.child.pid, signal.SIGKILL)
                return
            time.sleep(0.1)

    def _run(self, inherited: tuple[int, ...]) -> int:
        state = read_state(self.folder)
        if needed := self._unmet():
            return self._end("failed", needed)
        code = 0
        for attempt in range(1 + int(self.record.get("retries", 0))):
            self._write(phase="running", note="again after a failure" if attempt else "")
            code, state = self._try(state, inherited)
            if code in (0, 2, INTERRUPTED, -signal.SIGTERM) or self.stopping:
                break
        if code == 0:
            return self._end("finished", "")
        if code in (INTERRUPTED, -signal.SIGTERM) or self.stopping:
            return self._end("interrupted", "")
        return self._end("failed", self._reason(code))

    def _try(self, state: RunState, inherited: tuple[int, ...]) -> tuple[int, RunState]:
        config = ["--config", str(self.folder / "experiment.yaml")]
        if not state.fitted:
            last = last_checkpoint(self.folder)
            resumed = [] if last is None else ["--ckpt_path", str(last)]
            began = time.monotonic()
            code = self._call(["fit", *config, *resumed], inherited)
            spent = state.seconds + time.monotonic() - began
            state = self._write(seconds=spent, fitted=code == 0)
            if code != 0:
                return code, state
        if self.record.get("tested") and not state.tested:
            last = last_checkpoint(self.folder)
            trained = [] if last is None else ["--ckpt_path", str(last)]
            code = self._call(["test", *config, *trained], inherited)
            state = self._write(tested=code == 0)
            return code, state
        return 0, state

    def _call(self, arguments: Sequence[str], inherited: tuple[int, ...]) -> int:
        command = [sys.executable, "-m", "vedit", *arguments]
        with self._log() as log:
            log.write(f"$ vedit {' '.join(arguments)}\n".encode())
            log.flush()
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                # What tells this process of its time limit is not for the training.
                preexec_fn=_ignore_notice,
            )
            return self._wait(self.child)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        told = time.monotonic()
        while True:
            try:
                return child.wait(0.3)
            except subprocess.TimeoutExpired:
                pass
            if os.getppid() != self._parent and not self.stopping:
                self.interrupt()  # whoever started this process is gone
            if time.monotonic() - told > 10:
                told = time.monotonic()
                self._write()

    def _unmet(self) -> str:
        before = self.record.get("after")
        if before is None:
            return ""
        state = read_state(self.folder.parent / before)
        return "" if state.fitted else f"starts from {before}, which has not finished"

    def _write(self, **changes: Any) -> RunState:
        if not self.writes:
            return RunState(**changes)
        return write_state(self.folder, host=socket.gethostname(), process=os.getpgrp(), **changes)

    def _end(self, phase: str, note: str) -> int:
        self._write(phase=phase, note=note)
        return {"finished": 0, "interrupted": INTERRUPTED}.get(phase, FAILED)

    def _log(self) -> IO[bytes]:
        rank = os.environ.get("SLURM_PROCID", "0")
        name = "log.txt" if self.writes else f"log_{rank}.txt"
        return (self.folder / name).open("ab")

    def _reason(self, code: int) -> str:
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        said = [line.strip() for line in tail(self.folder / "log.txt").splitlines() if line.strip()]
        own = [line for line in said if line.startswith("vedit: ")]
        return (own or said or [f"exit code {code}"])[-1].removeprefix("vedit: ")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None without any."""
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    # `last.ckpt` first where several were written at once; one cut short by a crash is no archive.
    for path in sorted(reversed(found), key=lambda p: p.name != "last.ckpt"):
        if (path / "meta.pt").is_file() if path.is_dir() else zipfile.is_zipfile(path):
            return path
    return None


def stop_orphan(folder: Path, patience: float) -> None:
    """End a training that outlived the process that watched over it.

    Args:
        folder: of the run, held by that training.
        patience: seconds it has to write its checkpoint.

    Raises:
        BlockingIOError: it runs on another machine, or does not end.
    """
    if _released(folder, min(patience, 5.0)):  # it may be stopping already
        return
    state = read_state(folder)
    if state.host == socket.gethostname() and state.process not in (0, 1, os.getpgrp()):
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(state.process, number)
            except ProcessLookupError:
                return
            if _released(folder, patience):
                return
    raise BlockingIOError(f"{folder}: still in use on {state.host or 'another machine'}")


def tail(path: Path, size: int = 8192) -> str:
    """The end of a log; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return ""


def _released(folder: Path, patience: float) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            with holding(folder):
                return True
        except BlockingIOError:
            time.sleep(0.2)
    return False


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, which stays for its waiter to find out.

    The caller may be a signal handler in the middle of `Popen.wait`, whose lock is then taken.
    """
    if not hasattr(os, "waitid"):
        return child.poll() is not None
    try:
        found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return found is not None


def _ignore_notice() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def main(arguments: Sequence[str]) -> int:
    """Run the command; Ctrl-C and SIGTERM interrupt the training, which writes a checkpoint."""
    worker = Worker(Path(arguments[0]))

    def stop(number: int, frame: FrameType | None) -> None:
        worker.stopping = True
        if number == signal.SIGTERM:
            worker.interrupt()

    signal.signal(signal.SIGINT, stop)  # the training, of the same group, hears it itself
    signal.signal(signal.SIGTERM, stop)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
