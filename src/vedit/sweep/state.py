"""Where a run stands, in a file of its folder that outlives every process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

Phase = Literal["waiting", "running", "interrupted", "failed", "cancelled", "finished"]

SILENT_AFTER = 120.0
"""Seconds after which a run on another machine that has not been heard of is taken for dead."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        phase: as its last process left it.
        fitted: whether the training is through.
        tested: whether the test is through.
        seconds: spent in training so far.
        note: why it failed, or what it does.
        host: that it runs on.
        process: id of its process group there.
        heard: when it last gave a sign of life, seconds since 1970.
    """

    phase: Phase = "waiting"
    fitted: bool = False
    tested: bool = False
    seconds: float = 0.0
    note: str = ""
    host: str = ""
    process: int = 0
    heard: float = 0.0


def read_state(folder: Path) -> RunState:
    """The state in a run's folder; a run without one has not begun."""
    try:
        tree = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return RunState()
    names = {field.name for field in fields(RunState)}
    return RunState(**{name: value for name, value in tree.items() if name in names})


def write_state(folder: Path, **changes: Any) -> RunState:
    """Change the state in a run's folder, in one step that nothing can interrupt halfway."""
    state = replace(read_state(folder), heard=time.time(), **changes)
    write_json(folder / "state.json", asdict(state))
    return state


def write_json(path: Path, tree: Any) -> None:
    """Write a file that is never seen half written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def holding(folder: Path) -> Iterator[int]:
    """Hold a run's folder for as long as this process or one it starts lives.

    The lock is the kernel's, on a file that child processes inherit: a training that outlives the
    process that watched over it keeps the folder.

    Args:
        folder: of the run.

    Yields:
        The descriptor to hand to child processes.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process of this machine holds a run's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with holding(folder):
            return False
    except BlockingIOError:
        return True
    except OSError:  # a network file system without locks: go by the signs of life
        return time.time() - read_state(folder).heard < SILENT_AFTER


def is_alive(folder: Path, state: RunState) -> bool:
    """Whether a run that says it is running really is."""
    if state.host == socket.gethostname():
        return is_held(folder)
    return time.time() - state.heard < SILENT_AFTER
