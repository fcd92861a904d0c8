"""The connection queue of ``mode: async``: all connections are served in one event loop, batch by batch.

With one consumer nobody has to be kept away from a connection, so a parked one stays in the epoll as it is
(level-triggered): a request on a keep-alive connection costs no ``epoll_ctl``, and one ``epoll_wait`` gives many. A
connection that has something while its request still runs is taken out of the epoll, and comes back when it is
parked.

Threads: as in ``conn_queue``. ``ready`` belongs to the loop's thread. Others (the child's main thread, which tends
deadlines) may own and park a connection too, see ``_disarm``.
"""

from __future__ import annotations

import errno
import threading
from time import monotonic
from typing import Final

from .conn_queue import ConnectionQueue, rest_after
from .connection import AT_ONCE, INTEREST, SINCE, Connection

_ONESHOT: Final = 0x40000000
_LEVEL: Final = tuple(interest & ~_ONESHOT for interest in INTEREST)

# Connections served before the loop's other callbacks have their turn.
BATCH: Final = 64


class LoopQueue(ConnectionQueue):
    """See the module."""

    thread = 0  # the loop's thread, by its identifier

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
                if conn.owned.acquire(False) or self._disarm(conn):
                    found.append(conn)
            elif (listener := self._listeners.get(fd)) is not None:
                accepted = self._accept(listener)
                if accepted is not None:
                    found.append(accepted)
        return found

    def park(self, conn: Connection, *, keep_deadline: bool = False, at_once: bool = False) -> None:
        """Give up ownership until the connection has something to do, or its phase's deadline has passed."""
        if not keep_deadline:
            conn.numbers[SINCE] = monotonic()
        interest = _LEVEL[conn.phase] | (AT_ONCE if at_once else 0)
        if conn.watched == interest and threading.get_ident() == self.thread:
            conn.owned.release()
            return
        conn.watched = interest
        conn.owned.release()
        # From here on it may have another owner, or be closed: as in ConnectionQueue.park a stray event does no harm.
        try:
            self._watch(conn.fd, interest)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                self._unparkable(conn, exc)

    def _watch(self, fd: int, interest: int) -> None:
        try:
            self._modify(fd, interest)
        except FileNotFoundError:
            try:
                self._epoll.register(fd, interest)
            except FileExistsError:
                self._modify(fd, interest)

    def _disarm(self, conn: Connection) -> bool:
        """Do not be woken by a connection whose owner is busy. True if it has become the caller's meanwhile.

        The owner is an exchange of this thread, which will find ``watched`` to be 0 when it parks; or the main thread,
        which watches anew whenever it parks, so that its parking before or after this line comes to the same.
        """
        try:
            self._epoll.unregister(conn.fd)
        except OSError:
            pass  # closed, or disarmed already
        conn.watched = 0
        return conn.owned.acquire(False)
