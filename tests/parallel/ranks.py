"""Functions run on several gloo ranks, each a real process with one thread."""

import faulthandler
import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import torch
from torch import distributed


class RankError(RuntimeError):
    """A rank raised, died or took too long; the message names it and holds its traceback."""


def run_ranks(size: int, function: Callable[..., Any], *args: Any, timeout: float = 600) -> list:
    """Run `function(*args)` on `size` ranks of their own and return what each of them returned.

    Args:
        size: number of ranks.
        function: a function of a module, since it travels by name. `torch.distributed` is
            initialised with gloo when it runs, and RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
            MASTER_PORT are set.
        *args: pickled.
        timeout: seconds for the whole.

    Returns:
        One result per rank, in the order of ranks.

    Raises:
        RankError: for the first rank that raises, dies or takes too long; the others are ended.
    """
    with Ranks(size, timeout) as ranks:
        return ranks.run(function, *args)


class Ranks:
    """Processes that run one function after another, so that their start is paid for once.

    After a failure all of them are ended, and the next `run` starts new ones.

    Args:
        size: number of ranks.
        timeout: seconds that one `run` may take, the start of the processes included.
    """

    def __init__(self, size: int, timeout: float = 600) -> None:
        self.size, self.timeout = size, timeout
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *args: Any) -> list:
        """Run `function(*args)` on every rank; see `run_ranks`."""
        deadline = time.monotonic() + self.timeout
        if not self._processes:
            self._start()
        job = pickle.dumps((function, args))
        results: dict[int, Any] = {}
        try:
            for pipe in self._pipes:
                pipe.send_bytes(job)
            while len(results) < self.size:
                results |= self._next(deadline, missing=set(range(self.size)) - set(results))
        except BaseException:
            self.close()
            raise
        return [results[rank] for rank in range(self.size)]

    def close(self) -> None:
        """End the processes; they have nothing left to do, so that is no loss."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._processes, self._pipes, self._folder = [], [], None

    def _start(self) -> None:
        # Never fork: torch's threads and gloo's would be copied in the middle of what they do.
        spawn = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store, port = str(Path(self._folder.name) / "store"), _free_port()
        for rank in range(self.size):
            ours, theirs = spawn.Pipe()
            arguments = (rank, self.size, store, port, self.timeout, theirs)
            process = spawn.Process(target=_serve, args=arguments, name=f"rank {rank}")
            process.start()
            theirs.close()  # so that the pipe ends when the rank does
            self._processes.append(process)
            self._pipes.append(ours)

    def _next(self, deadline: float, missing: set[int]) -> dict[int, Any]:
        """What the ranks that are ready answer; waits for at least one of them."""
        ready = wait([self._pipes[rank] for rank in missing], max(0, deadline - time.monotonic()))
        if not ready:
            late = ", ".join(map(str, sorted(missing)))
            raise RankError(f"rank {late} of {self.size}: no answer within {self.timeout} s")
        answers = {}
        for rank in missing:
            if self._pipes[rank] not in ready:
                continue
            try:
                failure, answer = pickle.loads(self._pipes[rank].recv_bytes())
            except (EOFError, ConnectionResetError):
                failure, answer = True, "its pipe closed"
            if failure:
                self._name_dead()
                raise RankError(f"rank {rank} of {self.size} failed:\n{answer}")
            answers[rank] = answer
        return answers

    def _name_dead(self) -> None:
        """Raise if a rank died: the others' broken connections are only what follows from it."""
        dead = wait([process.sentinel for process in self._processes], 1)
        for rank, process in enumerate(self._processes):
            if process.sentinel in dead:
                process.join()
                raise RankError(f"rank {rank} of {self.size} died: exit code {process.exitcode}")


def _serve(rank: int, size: int, store: str, port: int, timeout: float, pipe: Connection) -> None:
    """What one rank does: run the functions that come through the pipe."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=timeout), world_size=size, rank=rank
    )
    while True:
        try:
            received = pipe.recv_bytes()
        except EOFError:  # whoever started this rank is gone
            return
        try:
            function, args = pickle.loads(received)
            # Where it hangs is worth more than that it does.
            faulthandler.dump_traceback_later(0.95 * timeout)
            # Plain bytes: torch would send tensors as memory that ends with this process.
            answer = pickle.dumps((False, function(*args)))
        except Exception:
            answer = pickle.dumps((True, traceback.format_exc()))
        finally:
            faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
