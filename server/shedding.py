"""Load shedding: requests that have waited too long for a thread are told at once to come again later.

Promises: nothing is refused while the queue is only a burst: a request is refused when it has waited longer than
``limits.queue_wait``, and every request for ``INTERVAL`` before it has as well. That is CoDel's rule (RFC 8289 3.2): a
queue stands when the *least* wait of an interval is too long, however many requests are in it. Refuses: to look at the
length of a queue, and to guess how long a request will take.

How long a request has waited is what the kernel knows of its connection: the time since its last bytes arrived, also
while it was in a listener's backlog. For connections that are not TCP it is what the last probe has measured (see
``load_keeper``), and no longer than the connection itself has been waiting.

Connections that are new and connections that were parked are two queues: a listener has one place in the epoll's
list however many wait behind it, so new ones may wait for seconds while the others wait for milliseconds.

Threads: ``asks`` is called by any worker, ``collect`` and ``calm`` by the child's main thread; a lock stands between
them. ``asleep`` and ``measures`` are attributes that the main thread writes; workers clear ``asleep``.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from .connection import SINCE, Connection

# How long the least wait has to be over the limit before anything is refused: RFC 8289 4.2 recommends 100 ms, about the
# time in which clients and their networks react.
INTERVAL: Final = 0.1
# A client is asked to stay away for at least as long as requests wait now, but no longer than this, in seconds.
_LONGEST_RETRY: Final = 60

# struct tcp_info (linux/tcp.h): eight bytes, eleven whole numbers, then tcpi_last_data_recv in milliseconds.
_LAST_DATA: Final = struct.Struct("=52xI")
_NEVER: Final = float("inf")


class Standing(NamedTuple):
    """What is known of a queue. ``above``: since when every request has waited too long, None if the last one has
    not; ``shedding``: whether those that have waited too long are refused."""

    above: float | None = None
    shedding: bool = False


class Shed(NamedTuple):
    """What the gate has seen since it was last asked."""

    least: float | None  # the least wait that was measured, if any was
    measured: int  # of how many requests
    refused: int  # how many were refused, since the beginning
    longest: float  # the longest wait that was measured


def judge(queue: Standing, wait: float, now: float, limit: float) -> tuple[Standing, bool]:
    """The queue after a request that has waited for ``wait`` seconds, and whether that one is refused.

    Those that are served while others are refused have waited just under the limit. So it takes a wait of half the
    limit to say that the queue stands no more; else it would have to be found out anew each ``INTERVAL``.
    """
    if wait <= limit:
        return Standing(None, queue.shedding and wait > limit / 2), False
    above = now if queue.above is None else queue.above
    shedding = queue.shedding or now - above >= INTERVAL
    return Standing(above, shedding), shedding


def retry_after(wait: float) -> int:
    """Seconds, for the header of that name (RFC 9110 10.2.3), in a queue in which requests wait so long."""
    return max(1, min(_LONGEST_RETRY, math.ceil(wait)))


def kernel_wait(conn: Connection) -> float | None:
    """How long ago the last bytes of ``conn`` arrived, in steps of the kernel's clock (1 to 10 ms); None for sockets
    that are not TCP."""
    try:
        return float(_LAST_DATA.unpack(conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56))[0]) / 1000
    except OSError, struct.error:
        return None


class Gate:
    """See the module. ``limit`` is ``limits.queue_wait``; ``notice`` wakes the child's main thread; ``delay`` gives
    what requests wait at a time, as far as probes tell."""

    def __init__(self, limit: float, notice: Callable[[], None], delay: Callable[[float], float]) -> None:
        self.asleep = False  # the main thread wants to be woken by the next request
        self.measures = False  # requests may have waited too long: it is measured
        self._limit = limit or _NEVER
        self._notice = notice
        self._delay = delay
        self._lock = threading.Lock()
        self._queues = [Standing(), Standing()]  # new connections, and parked ones
        self._least: float | None = None
        self._longest = 0.0
        self._measured = 0
        self._refused = 0

    def asks(self, conn: Connection) -> tuple[float | None, bool]:
        """How long the request of ``conn`` has waited, if that is measured now, and whether it is refused."""
        if self.asleep:
            self.asleep = False
            self._notice()
        if not self.measures:
            return None, False
        now = monotonic()
        wait = kernel_wait(conn) if conn.peer is not None else None
        if wait is None:
            wait = min(self._delay(now), now - conn.numbers[SINCE])
        parked = conn.known
        with self._lock:
            if self._least is None or wait < self._least:
                self._least = wait
            self._longest = max(self._longest, wait)
            self._measured += 1
            self._queues[parked], refused = judge(self._queues[parked], wait, now, self._limit)
            self._refused += refused
        return wait, refused

    def collect(self) -> Shed:
        """What was seen since the last time."""
        with self._lock:
            seen = Shed(self._least, self._measured, self._refused, self._longest)
            self._least = None
            self._measured = 0
            self._longest = 0.0
        return seen

    def calm(self) -> None:
        """Requests wait no more, or hardly."""
        with self._lock:
            self._queues = [Standing(), Standing()]
