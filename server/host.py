"""What an exchange, and what builds on it, may use of the worker that it belongs to.

A worker thread and the home loop both are a ``Host`` (``serving``); the exchange knows no more of them than this.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from ..config import ServerConfig, TimeoutsConfig
from .access_log import WorkerLog
from .conn_queue import ConnectionQueue
from .connection import Connection
from .lifecycle import LifecycleEvent
from .memo import ResponseMemo
from .slots import Slot


class Watcher(Protocol):
    """Calls back, in its loop, as long as a descriptor is readable or writable: an event loop, or part of one."""

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any:
        """Call ``callback(*args)`` while ``fd`` is readable."""

    def remove_reader(self, fd: int) -> Any:
        """No more of that."""

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> Any:
        """Call ``callback(*args)`` while ``fd`` is writable."""

    def remove_writer(self, fd: int) -> Any:
        """No more of that."""


class Host(Protocol):
    """What an exchange uses of its worker. All of it belongs to the worker's thread, but ``queue`` (shared, see there)
    and ``draining`` (say ``Connection: close``) and ``ending`` (end what clients begin anew), which other threads set
    once."""

    config: ServerConfig
    worker_id: int
    timeouts: TimeoutsConfig
    queue: ConnectionQueue
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    watcher: Watcher
    log: WorkerLog | None
    record: Callable[[LifecycleEvent], None] | None
    draining: bool
    ending: bool
    heads: ResponseMemo
    slot: Slot

    def go_on(self, conn: Connection) -> None:
        """Serve the next request of a connection that the worker owns."""

    def decode(self, conn: Connection, data: bytes) -> bytes:
        """More body bytes of ``conn``; see ``RequestReader.decode``."""

    def relieve(self) -> bool:
        """The thread is about to wait for a client: see that another serves in its place. False if none can."""
