"""Who goes when all places are taken and somebody wants to come in: the connection that is idle for longest.

Promises: who goes has waited for a request of which no byte has come, for a while, and longer than all others; one look
at all connections is enough for ``LOOK`` of them, so that letting somebody in costs little where there are many.
Refuses: TLS handshakes and requests that have begun, however slow they are: they have deadlines.

Any thread may ask; a lock stands before the list.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from .conn_table import ConnectionTable
from .connection import SINCE, Connection
from .deadlines import SETTLED
from .phases import Phase
from .seldom import SeldomLog

# So many are found at a look, which took 5 ms for 10,000 connections on a busy machine: 20 us for each. nginx keeps
# its idle connections in a list instead, in the order of their use, which would cost every request two changes to it.
LOOK: Final = 256
# How long not to look again when nobody could go, in seconds: else each connection that ends, and lets somebody in,
# would be a look at all others (2 ms for 10,000).
REST: Final = 0.1
# A connection that has sent nothing yet may have its first request on the way: so long it is left in peace, in seconds.
SILENT: Final = 1.0


class LongestIdle:
    """See the module. ``close`` ends a connection, ``give_back`` parks one that was only looked at."""

    def __init__(
        self,
        connections: ConnectionTable,
        close: Callable[[Connection], None],
        give_back: Callable[[Connection], None],
    ) -> None:
        self._connections = connections
        self._close = close
        self._give_back = give_back
        self._lock = threading.Lock()
        self._found: deque[tuple[float, Connection]] = deque()  # the longest idle first
        self._nobody_until = 0.0
        self._say = SeldomLog(logging.getLogger("serverd.worker"))
        self.closed = 0  # how many had to go; two threads at once may count one

    def take(self) -> Connection | None:
        """The connection that is idle for longest, owned by the caller; None if none may go."""
        now = monotonic()
        with self._lock:
            conn = self._next(now)
            if conn is None and now >= self._nobody_until:
                conn = self._next(now) if self._look(now) else None
                if conn is None:
                    self._nobody_until = now + REST
            return conn

    def settle(self, conn: Connection, *, goes: bool) -> None:
        """What becomes of a connection that ``take`` gave: somebody has come in its place, or nobody."""
        if not goes:
            self._give_back(conn)
            return
        self.closed += 1
        self._say(
            "%d connections are open, as many as limits.connections allows: idle ones are closed for new ones",
            self._connections.most,
        )
        conn.goodbye()
        self._close(conn)

    def make_room(self, most: int) -> bool:
        """Close up to ``most`` of them. False if none may go."""
        found = False
        for _ in range(most):
            conn = self.take()
            if conn is None:
                break
            self.settle(conn, goes=True)
            found = True
        return found

    def _next(self, now: float) -> Connection | None:
        while self._found:
            since, conn = self._found.popleft()
            # The same time: it has not been used since the look.
            if conn.numbers[SINCE] != since or not may_go(conn, now) or not conn.owned.acquire(False):
                continue
            if conn.numbers[SINCE] == since and may_go(conn, now) and not conn.has_data():
                return conn
            if conn.phase != Phase.CLOSED:
                self._give_back(conn)
        return None

    def _look(self, now: float) -> bool:
        idle = [(conn.numbers[SINCE], conn.id, conn) for conn in self._connections.all() if may_go(conn, now)]
        self._found.extend((since, conn) for since, _, conn in heapq.nsmallest(LOOK, idle))
        return bool(idle)


def may_go(conn: Connection, now: float) -> bool:
    """Whether it has waited long enough for a request, and nothing of one has come. A hint, but for the owner."""
    phase = conn.phase
    if phase == Phase.IDLE:
        patience = SETTLED
    elif phase in (Phase.HEAD, Phase.PREFACE):
        patience = SILENT
    else:
        return False
    return not conn.inbox and not conn.partial and now - conn.numbers[SINCE] >= patience
