"""When a parked connection has waited too long, by its phase; and what can be said of it without owning it.

Promises: a phase without a timeout has no deadline; nothing is counted or armed for a request, as a deadline is read
off the connection when somebody looks. Looking takes 2 % of a CPU at most, however many connections there are, so with
10,000 a deadline may be 0.1 s late. Refuses: to act on it (``conn_queue``, ``farewell``).

Any thread may ask. What it hears is a hint, to be asked again by the owner. ``look`` is for one thread, and ``excused``
for the owner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import monotonic
from typing import Final

from ..config import TimeoutsConfig
from .connection import SINCE, Connection
from .phases import NAMES, Phase

# How long a closing connection may still send what is thrown away; 2 s is nginx's lingering_timeout of 5 s, shortened
# because here nothing but the error message is at stake.
LINGER: Final = 2.0
# A client that has just read a response often sends its next request at once: closed in that moment, it would lose it
# (2 of 20,000 requests across five reloads). One that waited this long is not about to.
SETTLED: Final = 0.05
# After a look there is none for so long, in seconds for each connection: a look takes 0.2 us for each. Without a pause
# 10,000 strangers, whose deadlines are 1 ms apart, have the main thread look all the time.
_REST: Final = 10e-6
# So many are given out at a look: seeing one off takes 50 us, and threads that serve should not wait for the CPU until
# 10,000 are gone that came together.
_MOST: Final = 256
# After so many (0.1 ms) threads that serve and want to run go first, where they have no CPU of their own.
_STRETCH: Final = 512
# When those are looked at again that no thread had the time for, and the rest of too many, in seconds.
_SOON: Final = 0.02


class Deadlines:
    """See the module. ``shortest``: no deadline that is set from now on is nearer than that, in seconds."""

    def __init__(self, timeouts: TimeoutsConfig) -> None:
        seconds = {
            Phase.IDLE: timeouts.keep_alive,
            Phase.HEAD: timeouts.head,
            Phase.BODY: timeouts.body,
            Phase.WRITING: timeouts.write,
            Phase.LINGERING: LINGER,
            Phase.HANDSHAKE: timeouts.handshake,
            Phase.PREFACE: timeouts.head,
        }
        self._seconds = tuple(seconds.get(phase) or float("inf") for phase in range(len(NAMES)))
        self.shortest = min(self._seconds)
        self.rest_until = 0.0  # nobody looks before then

    def of(self, conn: Connection) -> float:
        """When its phase has lasted too long; never for the phases that have no timeout."""
        return conn.numbers[SINCE] + self._seconds[conn.phase]

    def look(self, connections: Sequence[Connection], now: float) -> tuple[list[Connection], float]:
        """Connections whose time is over, and when to look again."""
        self.rest_until = now + _REST * len(connections)
        seconds = self._seconds
        due = now + self.shortest
        overdue: list[Connection] = []
        for number, conn in enumerate(connections):
            if not number % _STRETCH:
                os.sched_yield()
            deadline = conn.numbers[SINCE] + seconds[conn.phase]
            if deadline <= now:
                overdue.append(conn)
                if len(overdue) == _MOST:
                    break
            elif deadline < due:
                due = deadline
        if overdue:
            due = min(due, now + _SOON)
        if len(overdue) == _MOST:
            self.rest_until = due
        return overdue, max(due, self.rest_until)


def excused(conn: Connection) -> bool:
    """Whether a connection whose time is over has done its part, and it is we who had no time to see that.

    A client that takes our bytes has its time anew, and a first message of TLS. Not one that sends: what is there will
    be read, and then it is complete, or ``PROGRESS``, or too late. With its time anew for each byte that happens to
    wait at that moment, a client that drips would stay as long as the child is busy.
    """
    phase = conn.phase
    if phase == Phase.LINGERING or not conn.is_ready():
        return False
    first = phase == Phase.HANDSHAKE and conn.numbers[SINCE] == conn.opened
    if first or phase in (Phase.IDLE, Phase.WRITING):
        conn.numbers[SINCE] = monotonic()
    return True


def is_idle(conn: Connection, since: float) -> bool:
    """Whether it waits for a request since ``since`` or longer. It may have begun to send one."""
    return (
        conn.phase in (Phase.IDLE, Phase.HEAD, Phase.HANDSHAKE, Phase.PREFACE)
        and conn.numbers[SINCE] <= since
    )


def has_next(conn: Connection) -> bool:
    """Whether its next request is in the inbox: the kernel tells of it no more."""
    return conn.phase == Phase.IDLE and bool(conn.inbox)


def wants_at_once(conn: Connection) -> bool:
    """Whether it is parked with ``at_once`` (``ConnectionQueue.park``)."""
    return has_next(conn) or (conn.phase == Phase.HANDSHAKE and conn.out is not None)
