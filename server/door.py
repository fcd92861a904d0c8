"""How connections come in: one accepted at a time, all that wait where the child cannot keep up, or in place of others.

Promises: a child keeps no more connections than its table takes (it has one more while one comes and another goes);
when it is full and somebody waits, the longest idle connection goes (``longest_idle``), and when none may go the
listener is held back, until a connection ends; the listener of an accepted connection is armed again, whatever became
of the connection. Refuses: to know what a connection does.

Any thread may call it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

from .conn_table import ConnectionTable
from .connection import Connection
from .listening import Listeners
from .longest_idle import LongestIdle
from .seldom import SeldomLog

_say: Final = SeldomLog(logging.getLogger("serverd.worker"))

# So many connections are accepted at a time while the child is congested. A listener has one place among all that is
# ready: with one connection for each of its turns, new clients waited for seconds where others waited for 0.3 s. Not
# where other children accept too: the slowest would take the most, 98 of 100 connections, and keep them.
MANY: Final = 256
# Where other children accept too, so many of the longest idle go at a time, after a pause in which others could have
# taken who waits: 320 a second. nginx lets 32 go at a time.
SOME: Final = 32


class Door:
    """See the module. ``park`` gives up a connection until it has something to do."""

    def __init__(
        self,
        connections: ConnectionTable,
        listeners: Listeners,
        park: Callable[[Connection], None],
        longest_idle: LongestIdle,
    ) -> None:
        self._connections = connections
        self._listeners = listeners
        self._park = park
        self._longest_idle = longest_idle
        # One entry for each thread that accepts now: what it has accepted may not be in the table yet. Both ends of a
        # list are as good as a number here, and its operations are atomic.
        self.entering: list[int] = []

    def accept(self, fd: int, *, alone: bool, congested: bool) -> Connection | None:
        """The listener ``fd`` has an event: a connection, owned by the caller, or None. ``alone``: no other child
        accepts there. ``congested``: no thread was idle of late. Then the others that wait get places of their own,
        behind all that is ready."""
        self.entering.append(fd)
        try:
            return self._accept(fd, alone, congested)
        finally:
            self.entering.pop()

    def _accept(self, fd: int, alone: bool, congested: bool) -> Connection | None:
        leaver = None
        if self._connections.full:
            # Where others accept too, they may have room: who still waits after a pause is let in by `has_room`.
            leaver = self._longest_idle.take() if alone else None
            if leaver is None:
                self._listeners.hold_back(fd)
                return None
        conn = None
        try:
            accepted = self._listeners.accept(fd)
            conn = None if accepted is None else self._enter(*accepted)
        except BaseException:
            self._listeners.arm(fd)
            raise
        finally:
            if leaver is not None:
                self._longest_idle.settle(leaver, goes=conn is not None)
        if accepted is None:  # and the listener is armed, or paused
            return None
        if congested and alone:
            for _ in range(MANY):
                if self._connections.full:
                    break
                another = self._listeners.accept(fd)
                if another is None:  # no more there, and the listener is armed
                    return conn
                self.enter(*another)
        self._listeners.arm(fd)
        return conn

    def enter(self, sock: socket.socket, address: object) -> None:
        """Serve a connection that was accepted just now."""
        conn = self._enter(sock, address)
        if conn is not None:
            self._park(conn)

    def has_room(self) -> bool:
        """Whether somebody who waits may come in; perhaps because others go."""
        return not self._connections.full or self._longest_idle.make_room(SOME)

    def _enter(self, sock: socket.socket, address: object) -> Connection | None:
        try:
            return self._connections.accepted(sock, address)
        except OSError as exc:
            _say("a connection is lost: %s", exc)
            sock.close()
            return None
