"""The connection queue of ``mode: async``: all connections are served in one event loop, batch by batch.

With one consumer nobody has to be kept away from a connection, so a parked one stays in the epoll as it is
(level-triggered): a request on a keep-alive connection costs no ``epoll_ctl``, and one ``epoll_wait`` gives many. A
connection that has something while its request still runs is taken out of the epoll, and comes back when it is
parked.

Threads: as in ``conn_queue``, but only the loop's thread, to which ``ready`` belongs, tells the epoll of a connection.
What another owns and parks (the child's main thread, which tends deadlines) goes back by way of this thread: a call
that comes late could else leave a connection waiting for the wrong thing.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from time import monotonic
from typing import Any, Final

from .conn_queue import ConnectionQueue
from .connection import SINCE, Connection
from .listening import rest_after
from .phases import AT_ONCE, INTEREST

_ONESHOT: Final = 0x40000000
_LEVEL: Final = tuple(interest & ~_ONESHOT for interest in INTEREST)

# Connections served before the loop's other callbacks have their turn.
BATCH: Final = 64


class LoopQueue(ConnectionQueue):
    """See the module."""

    thread = 0  # the loop's thread, by its identifier

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # (connection, at_once): parked by other threads, and still owned
        self._returned: deque[tuple[Connection, bool]] = deque()
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._news, select.EPOLLIN)

    def ready(self) -> list[Connection]:
        """Connections with something to do, each owned by the caller: at most ``BATCH``."""
        try:
            events = self._epoll.poll(0, BATCH)
        except OSError as exc:
            rest_after(exc)
            return []
        found: list[Connection] = []
        for fd, _ in events:
            conn = self._table.get(fd)
            if conn is not None:
                if conn.owned.acquire(False):
                    found.append(conn)
                else:
                    self._disarm(conn)
            elif fd in self._listeners:
                accepted = self._door.accept(fd, alone=self.alone, congested=self.congested)
                if accepted is not None:
                    found.append(accepted)
            elif fd == self._news:
                self._park_returned()
            else:
                self.errands.run(fd)
        return found

    def park_idle(self, conn: Connection, now: float) -> None:
        """As ``park``, of a connection whose response went out whole: ``IDLE``, and no next request is here yet."""
        conn.numbers[SINCE] = now
        self.park(conn, keep_deadline=True)

    def park(self, conn: Connection, *, keep_deadline: bool = False, at_once: bool = False) -> None:
        """Give up ownership until the connection has something to do, or its phase's deadline has passed."""
        if not keep_deadline:
            conn.numbers[SINCE] = monotonic()
        if self.departure is not None and self.departure.takes(conn):
            return
        interest = _LEVEL[conn.phase] | (AT_ONCE if at_once else 0)
        if threading.get_ident() != self.thread:
            self._returned.append((conn, at_once))
            os.eventfd_write(self._news, 1)
            return
        if conn.watched != interest and not self._arm(conn, interest):
            return
        conn.owned.release()

    def _park_returned(self) -> None:
        # The event is taken before the deque is emptied, so none that comes meanwhile is overlooked.
        os.eventfd_read(self._news)
        while self._returned:
            conn, at_once = self._returned.popleft()
            self.park(conn, keep_deadline=True, at_once=at_once)

    def _disarm(self, conn: Connection) -> None:
        """Do not be woken by a connection whose owner is busy: an exchange of this thread, or the main thread. It will
        find ``watched`` to be 0 when it is parked."""
        try:
            self._epoll.unregister(conn.fd)
        except OSError:
            pass  # closed, or disarmed already
        conn.watched = 0

    def release(self) -> None:
        """As ``ConnectionQueue.release``."""
        super().release()
        os.close(self._news)
