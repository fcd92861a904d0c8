"""The connections that are open in this child: one table, by descriptor, and how many it takes.

Promises: what is in the table is open and has a number of its own; what leaves it is closed, once. Refuses: to wait for
what a connection does (``conn_queue``).

Threads: ``enter`` is for any thread, ``leave`` for the owner of the connection, all else gives hints to everybody.
``by_fd`` is one dict, whose single operations are atomic in CPython (with and without a GIL).
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from time import monotonic

from .connection import REQUESTS, Address, Connection, Phase, Server
from .lifecycle import ConnectionCompleted, ConnectionOpened, LifecycleEvent

# (number, family, descriptor, peer, local address, now): makes what `accept` accepted a connection.
MakeConnection = Callable[[int, int, int, Address | None, Server | None, float], Connection]


class ConnectionTable:
    """See the module. ``most``: of open connections; 0 is unbounded."""

    def __init__(
        self, most: int, record: Callable[[LifecycleEvent], None] | None, make: MakeConnection
    ) -> None:
        self.by_fd: dict[int, Connection] = {}
        self._most = most
        self._record = record
        self._make = make
        self._numbers = itertools.count(1)
        self._numbers_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.by_fd)

    @property
    def full(self) -> bool:
        """Whether there is no place for one more."""
        return self._most > 0 and len(self.by_fd) >= self._most

    @property
    def room(self) -> int:
        """For how many more there is a place."""
        return max(0, self._most - len(self.by_fd)) if self._most else sys.maxsize

    def all(self) -> list[Connection]:
        """The open connections at this moment; any of them may close at any time."""
        return list(self.by_fd.values())

    def enter(
        self,
        family: int,
        fd: int,
        peer: Address | None,
        local: Server | None,
        make: MakeConnection | None = None,
    ) -> Connection:
        """The connection of the socket ``fd``, owned by the caller. ``make``: of another kind than all others."""
        now = monotonic()
        with self._numbers_lock:
            number = next(self._numbers)
        conn = (make or self._make)(number, family, fd, peer, local, now)
        self.by_fd[conn.fd] = conn
        if self._record is not None:
            self._record(ConnectionOpened(conn.id, now, conn.peer))
        return conn

    def leave(self, conn: Connection) -> None:
        """Close it. Its lock stays taken: nobody can own it again."""
        conn.move(Phase.CLOSED)
        self.by_fd.pop(conn.fd, None)
        conn.out = None
        conn.close()
        if self._record is not None:
            now = monotonic()
            self._record(ConnectionCompleted(conn.id, now, int(conn.numbers[REQUESTS]), now - conn.opened))
