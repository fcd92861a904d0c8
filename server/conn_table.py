"""The connections that are open in this child: one table, by descriptor, and how many it takes, of each address too.

Promises: what is in the table is open and has a number of its own; what leaves it is closed, once, and its address has
a place more. Refuses: to wait for what a connection does (``conn_queue``).

Threads: ``accepted`` and ``enter`` are for any thread, ``leave`` and ``named`` for the owner of the connection, all
else gives hints to everybody.
``by_fd`` is one dict, whose single operations are atomic in CPython (with and without a GIL).
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections.abc import Callable
from time import monotonic

from .connection import REQUESTS, Address, Connection, Server
from .lifecycle import ConnectionCompleted, ConnectionOpened, LifecycleEvent
from .per_address import PerAddress
from .phases import Phase

# (number, family, descriptor, peer, local address, now): makes what `accept` accepted a connection.
MakeConnection = Callable[[int, int, int, Address | None, Server | None, float], Connection]


class ConnectionTable:
    """See the module. ``most``: of open connections; 0 is unbounded."""

    def __init__(
        self,
        most: int,
        record: Callable[[LifecycleEvent], None] | None,
        make: MakeConnection,
        addresses: PerAddress | None = None,
    ) -> None:
        self.by_fd: dict[int, Connection] = {}
        self.most = most
        self._addresses = addresses
        self._record = record
        self._make = make
        self._numbers = itertools.count(1)
        self._numbers_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.by_fd)

    @property
    def full(self) -> bool:
        """Whether there is no place for one more."""
        return self.most > 0 and len(self.by_fd) >= self.most

    @property
    def room(self) -> int:
        """For how many more there is a place."""
        return max(0, self.most - len(self.by_fd)) if self.most else sys.maxsize

    def all(self) -> list[Connection]:
        """The open connections at this moment; any of them may close at any time."""
        return list(self.by_fd.values())

    def accepted(self, sock: socket.socket, address: object) -> Connection | None:
        """The connection of a socket that was accepted just now, owned by the caller; None if its address has as many
        as it may, and it is closed again. Raises OSError."""
        # Not the listener's, which a drain may have closed meanwhile; a unix socket's is the path that it came by.
        name = sock.getsockname()
        local: Server = (str(name), None) if sock.family == socket.AF_UNIX else name[:2]
        peer = _inet(address)
        counted = self._admit(peer)
        if counted is None:
            sock.close()
            return None
        return self._enter(sock.family, sock.detach(), peer, local, self._make, counted)

    def enter(
        self,
        family: int,
        fd: int,
        peer: Address | None,
        local: Server | None,
        make: MakeConnection | None = None,
    ) -> Connection:
        """The connection of the socket ``fd``, which was accepted elsewhere, owned by the caller: it is counted, and
        never refused. ``make``: of another kind than all others. Raises OSError."""
        return self._enter(family, fd, peer, local, make or self._make, self._admit(peer, always=True) or "")

    def named(self, conn: Connection) -> bool:
        """Its ``peer`` is now whom the PROXY protocol has named: count it there. False if it is to be closed."""
        if self._addresses is None:
            return True
        self._addresses.leave(conn.counted)
        conn.counted = ""
        counted = self._addresses.enter(conn.peer, named=True)
        if counted is None:
            return False
        conn.counted = counted
        return True

    def leave(self, conn: Connection) -> None:
        """Close it. Its lock stays taken: nobody can own it again."""
        conn.move(Phase.CLOSED)
        self.by_fd.pop(conn.fd, None)
        conn.out = None
        self._give_back(conn.counted)  # first: a client that sees the end may come again at once
        conn.close()
        if self._record is not None:
            now = monotonic()
            self._record(ConnectionCompleted(conn.id, now, int(conn.numbers[REQUESTS]), now - conn.opened))

    def _admit(self, peer: Address | None, *, always: bool = False) -> str | None:
        return "" if self._addresses is None else self._addresses.enter(peer, always=always)

    def _enter(
        self,
        family: int,
        fd: int,
        peer: Address | None,
        local: Server | None,
        make: MakeConnection,
        counted: str,
    ) -> Connection:
        now = monotonic()
        with self._numbers_lock:
            number = next(self._numbers)
        try:
            conn = make(number, family, fd, peer, local, now)
        except BaseException:
            self._give_back(counted)
            raise
        conn.counted = counted
        self.by_fd[conn.fd] = conn
        if self._record is not None:
            self._record(ConnectionOpened(conn.id, now, conn.peer))
        return conn

    def _give_back(self, counted: str) -> None:
        if counted and self._addresses is not None:
            self._addresses.leave(counted)


def _inet(address: object) -> Address | None:
    """(host, port) of what accept gave; None for unix sockets."""
    if isinstance(address, tuple) and len(address) >= 2:
        return (str(address[0]), int(address[1]))
    return None
