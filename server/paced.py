"""An exchange whose sender is held back while the client does not read: what streams and WebSockets have in common.

Promises: what the kernel does not take is sent as soon as it does, in the loop, while the application does other
things; ``held_back`` waits only while more than ``HIGH_WATER`` is buffered; a client that takes less than ``PROGRESS``
within ``timeouts.write`` is cut off. Refuses: to know what the bytes are.

Belongs to its host's thread and event loop, as every exchange.
"""

from __future__ import annotations

import asyncio
from typing import Final

from .connection import PROGRESS, Connection
from .exchange import ClientGone, Exchange
from .host import Host
from .http.events import RequestReceived

# A sender is held back while more than this waits for the client; asyncio's own high-water mark.
HIGH_WATER: Final = 64 * 1024


class PacedExchange(Exchange):
    """See the module."""

    __slots__ = ("_room", "_slow", "_writing")

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self._room: list[asyncio.Future[None]] = []  # who waits until the client reads
        self._writing = False
        self._slow: asyncio.TimerHandle | None = None

    async def held_back(self) -> None:
        """See that buffered bytes are sent; wait while they are many. Raises ClientGone."""
        self.write_on()
        if self.conn.pending_out > HIGH_WATER:
            waiter = self.worker.loop.create_future()
            self._room.append(waiter)
            await waiter
            if self.done:
                raise ClientGone(0, "the client did not read in time (timeouts.write)")

    def write_on(self) -> None:
        """Send what is buffered whenever the client takes it, from now until nothing is left."""
        if not self._writing:
            self.conn.taken = 0
            self.worker.watcher.add_writer(self.conn.fd, self._on_writable)
            self._writing = self.watching = True  # unless that failed: whoever sends next tries again
            self._start_timer()

    def has_room(self) -> None:
        """Called each time that the client has read and no more than ``HIGH_WATER`` is left."""
        resolve(self._room)

    def released(self) -> None:
        """Before the connection goes: no watcher stays on its descriptor, nobody goes on waiting."""
        self._stop_timer()
        if self._writing:
            self._writing = False
            self.worker.watcher.remove_writer(self.conn.fd)
        resolve(self._room)

    def _on_writable(self) -> None:
        conn: Connection = self.conn
        try:
            empty = conn.flush()
        except OSError:
            self.cut()
            return
        if conn.taken >= PROGRESS or empty:
            conn.taken = 0
            self._stop_timer()
            if not empty:
                self._start_timer()
        if empty:
            self._writing = False
            self.worker.watcher.remove_writer(conn.fd)
        if conn.pending_out <= HIGH_WATER:
            self.has_room()

    def _start_timer(self) -> None:
        if self.worker.timeouts.write:
            self._slow = self.worker.loop.call_later(self.worker.timeouts.write, self.cut)

    def _stop_timer(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


def resolve[F: asyncio.Future[None]](waiters: list[F]) -> None:
    """Wake all of them: two tasks of an application may each be in ``receive``, or in ``send``."""
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()
