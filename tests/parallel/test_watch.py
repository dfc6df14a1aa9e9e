"""Ranks that die, fail or leave: who is told what, and how soon."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import time
from typing import Any

import pytest

from vedit.parallel.watch import Door, End, Watch


def rank_process(rank: int, door: Door, told: Any, orders: Any) -> None:
    """A rank that leaves, fails or goes on watching as it is told."""
    watch = Watch(rank, told.put, door, "localhost")
    told.put("here")
    order = orders.get()
    watch.leave(None if order == "leave" else order)


class Others:
    """Ranks 1 and 2 in processes of their own, and rank 0 here."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.ends: queue.Queue[End] = queue.Queue()
        self.watch = Watch(0, self.ends.put)
        self.told = {rank: spawn.Queue() for rank in (1, 2)}
        self.orders = {rank: spawn.Queue() for rank in (1, 2)}
        self.processes = {
            rank: spawn.Process(
                target=rank_process,
                args=(rank, self.watch.door, self.told[rank], self.orders[rank]),
            )
            for rank in (1, 2)
        }
        for process in self.processes.values():
            process.start()
        for told in self.told.values():
            assert told.get(timeout=100) == "here"

    def close(self) -> None:
        self.watch.leave()
        for process in self.processes.values():
            process.kill()
            process.join()


@pytest.fixture
def others() -> Any:
    started = Others()
    yield started
    started.close()


def test_a_rank_that_is_killed_is_named_to_all(others: Others) -> None:
    pid = others.processes[1].pid
    time.sleep(0.5)  # for its name to arrive
    started = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    end = others.ends.get(timeout=20)
    told = others.told[2].get(timeout=20)
    assert time.monotonic() - started < 15
    assert end == told
    assert (end.rank, end.sudden) == (1, True)
    assert end.reason == f"rank 1 (process {pid} on {socket.gethostname()}) died"


def test_a_rank_that_fails_says_why_and_one_that_leaves_is_not_missed(others: Others) -> None:
    others.orders[1].put("leave")
    others.processes[1].join(timeout=20)
    time.sleep(0.5)
    assert others.ends.empty()
    others.orders[2].put("DataError: a.tar: cut short")
    end = others.ends.get(timeout=20)
    assert (end.rank, end.sudden) == (2, False)
    assert end.reason.endswith("failed: DataError: a.tar: cut short")


def test_strangers_are_no_ranks() -> None:
    ends: queue.Queue[End] = queue.Queue()
    watch = Watch(0, ends.put)
    for word in (b"", b'{"token": "guess", "rank": 1}\n'):
        with socket.create_connection(("localhost", watch.door.port)) as stranger:
            stranger.sendall(word)
        time.sleep(0.5)
    watch.leave()
    assert ends.empty()
