"""When a parked connection has waited too long, by its phase; and what can be said of it without owning it.

Promises: a phase without a timeout has no deadline; nothing is counted or armed for a request, as a deadline is read
off the connection when somebody looks. Refuses: to act on it (``conn_queue``, ``farewell``).

Any thread may ask. What it hears is a hint, to be asked again by the owner.
"""

from __future__ import annotations

from typing import Final

from ..config import TimeoutsConfig
from .connection import NAMES, SINCE, Connection, Phase

# How long a closing connection may still send what is thrown away; 2 s is nginx's lingering_timeout of 5 s, shortened
# because here nothing but the error message is at stake.
LINGER: Final = 2.0
# A client that has just read a response often sends its next request at once: closed in that moment, it would lose it
# (2 of 20,000 requests across five reloads). One that waited this long is not about to.
SETTLED: Final = 0.05


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
        }
        self._seconds = tuple(seconds.get(phase) or float("inf") for phase in range(len(NAMES)))
        self.shortest = min(self._seconds)

    def of(self, conn: Connection) -> float:
        """When its phase has lasted too long; never for the phases that have no timeout."""
        return conn.numbers[SINCE] + self._seconds[conn.phase]


def is_idle(conn: Connection, since: float) -> bool:
    """Whether it waits for a request since ``since`` or longer. It may have begun to send one."""
    return conn.phase in (Phase.IDLE, Phase.HEAD, Phase.HANDSHAKE) and conn.numbers[SINCE] <= since


def has_next(conn: Connection) -> bool:
    """Whether its next request is in the inbox: the kernel tells of it no more."""
    return conn.phase == Phase.IDLE and bool(conn.inbox)


def wants_at_once(conn: Connection) -> bool:
    """Whether it is parked with ``at_once`` (``ConnectionQueue.park``)."""
    return has_next(conn) or (conn.phase == Phase.HANDSHAKE and conn.out is not None)
