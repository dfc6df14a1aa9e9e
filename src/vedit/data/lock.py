"""One writer at a time in a folder of shards.

The lock is the kernel's (`flock` on a file in the folder), so it ends with the process that holds
it, however that ends: a lock is never stale. The file stays where it is and means nothing by
itself; its text is for the message.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vedit.errors import DataError

LOCK_NAME = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def writing(folder: str | Path, task: str) -> Iterator[None]:
    """Keep every other process from writing into a folder.

    Args:
        folder: an existing one.
        task: what is done meanwhile, such as "vedit data build"; the other process is told.

    Yields:
        Nothing.

    Raises:
        DataError: another process is writing there; the message names it.
    """
    descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
        os.ftruncate(descriptor, 0)  # what a killed process left
        who = f"{task}, process {os.getpid()} on {socket.gethostname()}"
        os.pwrite(descriptor, who.encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def check_free(folder: str | Path) -> None:
    """Find out early whether `writing` would be refused.

    Args:
        folder: an existing one.

    Raises:
        DataError: another process is writing there.
    """
    descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str | Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "it just started"
        raise DataError(
            f"{folder}: another process is writing here ({holder}); wait until it has finished, "
            "or choose another folder."
        ) from error
    except OSError as error:  # some network file systems are mounted without locks
        log.warning("%s: cannot be locked (%s); let one process at a time write", folder, error)
