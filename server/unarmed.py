"""Connections that could not be parked, as the kernel had no memory, or no watches, to wait for them: tried again.

They stay owned meanwhile, so that nobody else touches them. ``add`` is for any thread, ``retry`` for the child's main
thread; a deque's single operations are atomic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic

from .connection import Connection
from .listening import PAUSE, say_failed


class Unarmed:
    """See the module. ``notice`` tells the main thread that there is one."""

    def __init__(self, notice: Callable[[], None]) -> None:
        self._notice = notice
        self._connections: deque[Connection] = deque()
        self._again = 0.0

    def __bool__(self) -> bool:
        return bool(self._connections)

    def add(self, conn: Connection, exc: OSError) -> None:
        """``conn``, which its owner wanted to park."""
        say_failed("epoll_ctl", exc)
        conn.watched = 0
        if not self._connections:
            self._again = monotonic() + PAUSE
        self._connections.append(conn)
        self._notice()

    def retry(self, now: float, park: Callable[[Connection], None]) -> float:
        """Hand each to ``park`` if it is time to; when to call again."""
        if now >= self._again:
            self._again = now + PAUSE
            for _ in range(len(self._connections)):
                park(self._connections.popleft())
        return self._again if self._connections else float("inf")
