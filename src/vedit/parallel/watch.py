"""Notice within seconds that another rank died, and say which.

A collective waits for all ranks, for half an hour or for ever, and when it fails at last it does
not know who was missing. So every rank holds a connection to the first one and says a word on it
every few seconds. The system closes the connection of a process that dies, whatever killed it; of a
machine that vanishes there is silence. Who leaves in order says so.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

BEAT_S, SILENCE_S, GRACE_S = 2.0, 40.0, 5.0
"""Between two words; until silence counts as death; for a rank to fail by itself after another."""


@dataclass(frozen=True)
class Door:
    """Where the first rank listens.

    Attributes:
        port: of its machine.
        token: that a rank has to know.
    """

    port: int
    token: str


@dataclass(frozen=True)
class End:
    """Why a rank is not there any more.

    Attributes:
        rank: its number.
        reason: who it was and what happened, a sentence.
        sudden: whether it died; otherwise it failed and the others may be about to do the same.
    """

    rank: int
    reason: str
    sudden: bool


class _Line:
    """One connection: lines of JSON, and when the last one came."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard, self.rank, self.name = time.monotonic(), -1, "an unknown process"
        self._unread = b""
        self._lock = threading.Lock()

    def say(self, **message: object) -> None:
        """Send a line; a connection that is broken is noticed by reading from it."""
        try:
            with self._lock:
                self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def hear(self) -> list[dict[str, object]] | None:
        """The lines that arrived; None at the end."""
        try:
            received = self.connection.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            return None
        self.heard = time.monotonic()
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]


class Watch:
    """One rank's view of the others.

    Args:
        rank: of this process.
        ended: called once, from a thread, with the first rank that is lost.
        door: of the first rank; None makes it, on the first rank.
        address: of the first rank's machine.
    """

    def __init__(
        self,
        rank: int,
        ended: Callable[[End], None],
        door: Door | None = None,
        address: str = "",
    ) -> None:
        self.rank, self._ended = rank, ended
        self._name = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
        self._lines: list[_Line] = []
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._leaving = threading.Event()
        if door is None:
            self._listener = socket.create_server(("", 0), backlog=4096)
            self._selector.register(self._listener, selectors.EVENT_READ)
            self.door = Door(self._listener.getsockname()[1], secrets.token_hex(16))
        else:
            self.door = door
            line = self._add(socket.create_connection((address, door.port), timeout=60))
            line.rank, line.name = 0, "rank 0"
            line.say(token=door.token, rank=rank, name=self._name)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def leave(self, failure: str | None = None) -> None:
        """Go, in order or because of a failure, and look at nobody any more.

        Args:
            failure: what happened, for the others to end with.
        """
        if self._leaving.is_set():
            return
        self._leaving.set()
        for line in list(self._lines):
            if failure is None:
                line.say(left=True)
            else:
                line.say(lost=self.rank, reason=f"{self._name} failed: {failure}", sudden=False)
        self._thread.join(timeout=5)
        for line in self._lines:
            line.connection.close()
        if self._listener is not None:
            self._listener.close()

    def _add(self, connection: socket.socket) -> _Line:
        connection.settimeout(SILENCE_S)
        line = _Line(connection)
        self._lines.append(line)
        self._selector.register(connection, selectors.EVENT_READ, line)
        return line

    def _remove(self, line: _Line) -> None:
        self._selector.unregister(line.connection)
        self._lines.remove(line)
        line.connection.close()

    def _run(self) -> None:
        spoke = 0.0
        while not self._leaving.is_set():
            ready = self._selector.select(timeout=0.2)
            if time.monotonic() - spoke > BEAT_S:
                spoke = time.monotonic()
                for line in self._lines:
                    line.say(name=self._name)
            end = self._first_end([key.data for key, _ in ready])
            if end is not None:
                self._spread(end)
                return

    def _first_end(self, ready: list[_Line | None]) -> End | None:
        """Read what arrived, and look for silence; None in `ready` is a newcomer."""
        for line in ready:
            if self._leaving.is_set():
                return None
            if line is None:
                self._accept()
            elif (end := self._read(line)) is not None:
                return end
        for line in self._lines:
            if time.monotonic() - line.heard > SILENCE_S:
                return End(line.rank, f"{line.name} is silent for {SILENCE_S:.0f} s", True)
        return None

    def _accept(self) -> None:
        assert self._listener is not None
        self._add(self._listener.accept()[0])

    def _read(self, line: _Line) -> End | None:
        messages = line.hear()
        if messages is None:
            known = line.rank >= 0  # otherwise it was no rank, but somebody who tried the port
            self._remove(line)
            return End(line.rank, f"{line.name} died", True) if known else None
        for message in messages:
            if line.rank < 0:
                if message.get("token") != self.door.token:
                    self._remove(line)
                    return None
                line.rank = int(str(message["rank"]))
            if "lost" in message:
                sudden = bool(message["sudden"])
                return End(int(str(message["lost"])), str(message["reason"]), sudden)
            if "left" in message:
                self._remove(line)
                return None
            line.name = str(message.get("name", line.name))
        return None

    def _spread(self, end: End) -> None:
        """Tell the others, then act on it."""
        for line in self._lines:
            if line.rank != end.rank:
                line.say(lost=end.rank, reason=end.reason, sudden=end.sudden)
        if not end.sudden:
            self._leaving.wait(GRACE_S)
        if not self._leaving.is_set():
            self._ended(end)
