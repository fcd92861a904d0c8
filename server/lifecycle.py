"""What happens to connections and requests, as events for whoever wants to know (metrics, tracing, tests).

Promises: every ``ConnectionOpened`` is followed by exactly one ``ConnectionCompleted``; every ``RequestStarted`` by
exactly one ``ResponseCompleted`` or ``ClientDisconnected``. The events of one connection come in order. With no
collector, or the no-op one, no event object is made at all. Refuses: to let a collector's exception harm a request (it
is logged once and the collector goes on being called).

Times are ``time.monotonic()`` seconds, durations seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger("serverd.worker")


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A connection was accepted. ``client`` is the other end, (host, port), or None on a unix socket: a proxy, where
    there is one."""

    connection_id: int
    at: float
    client: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """A complete head was parsed and the application is about to be called."""

    connection_id: int
    worker_id: int
    at: float
    method: str
    target: bytes
    http_version: str


@dataclass(frozen=True, slots=True)
class ResponseCompleted:
    """The last byte of a response was given to the kernel, or is buffered for it. ``body_bytes`` is without framing."""

    connection_id: int
    worker_id: int
    at: float
    status: int
    body_bytes: int
    duration: float


@dataclass(frozen=True, slots=True)
class ClientDisconnected:
    """The client went away, or was cut off, before its response was complete."""

    connection_id: int
    worker_id: int
    at: float
    duration: float


@dataclass(frozen=True, slots=True)
class ConnectionCompleted:
    """The connection is closed; ``requests`` were answered on it."""

    connection_id: int
    at: float
    requests: int
    duration: float


LifecycleEvent = (
    ConnectionOpened | RequestStarted | ResponseCompleted | ClientDisconnected | ConnectionCompleted
)


class LifecycleCollector(Protocol):
    """Receives every event. ``record`` is called from many threads at once and must be safe for that, and quick: the
    request waits for it."""

    def record(self, event: LifecycleEvent) -> None:
        """Take one event."""


class NoOpCollector:
    """Ignores everything. The workers see that and make no events."""

    def record(self, event: LifecycleEvent) -> None:
        """Ignore it."""


def recorder(collector: LifecycleCollector | None) -> Callable[[LifecycleEvent], None] | None:
    """A function that records safely, or None when nobody listens, so that a caller can skip making the event."""
    if collector is None or isinstance(collector, NoOpCollector):
        return None
    record = collector.record
    complained = False

    def record_safely(event: LifecycleEvent) -> None:
        # `complained` may be set by two threads at once: the cost is a second log line.
        nonlocal complained
        try:
            record(event)
        except Exception:
            if not complained:
                complained = True
                logger.exception("lifecycle collector %r failed; further failures are not logged", collector)

    return record_safely
