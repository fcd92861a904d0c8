"""The event stream of a browser (HTML, "Server-sent events"): a response that the client opens again when it ends.

Promises: when the client leaves, its connection is closed at once, although the application may have nothing to
send for hours; when the child drains, the response ends complete, as the client connects again by itself. An
application that notices neither is cancelled after ``NOTICE`` seconds: Starlette, from ASGI 2.4 on, learns from
``send`` alone that a client has left, and one that waits for its next event does not send. Refuses: clients that
half-close and still read, as a browser does not; for other requests that is allowed (``Cycle``).

Belongs to the home loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from ..connection import Connection
from ..exchange import ClientGone, Headers
from ..host import Host
from ..http.events import RequestReceived
from ..http.response import ResponseError
from ..slots import EVENT_STREAM
from .cycle import Cycle

# How long an application may take to notice that its stream has ended, in seconds, until it is cancelled.
NOTICE: Final = 1.0


class EventStream(Cycle):
    """See the module."""

    kind = EVENT_STREAM
    __slots__ = ("_flowing", "task")

    task: asyncio.Task[Any]  # the application's, from its first wait on

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self._flowing = False  # the response has begun: the end of the client is looked for

    def begin(self, status: int, headers: Headers, body: bytes, more: bool, trailers: bool = False) -> None:
        """As ``Exchange.begin``; a stream that begins while the child drains ends with its first piece."""
        super().begin(status, headers, body, more, trailers)
        if not more or self.done:
            return
        if self.worker.ending:
            self.drain()
        elif self.conn.request is None:
            # Else what comes is of a body that the application reads, and it hears of the end there.
            self._flowing = True
            self._look_out()

    def drain(self) -> None:
        """End the response, complete, and its connection: on the same one the client would come to this child again."""
        if self.done:
            return
        try:
            if self._head is not None:
                head, self._head = self._head, None
                self.gone = True
                super().begin(head[0], head[1], b"", False)
            elif self.framer is not None:
                self.gone = True
                self.framer.keep_alive = False
                self.go_on(b"", False)
        except ResponseError, ClientGone:
            self.cut()
        if self.done:
            self._release_later()

    async def _readable(self, seconds: float, *, watch: bool = True) -> None:
        try:
            await super()._readable(seconds, watch=watch)
        finally:
            if self._flowing and not self.done and not self._reading:
                self._look_out()

    def _look_out(self) -> None:
        """Hear of the client's end while the application waits for something else."""
        self.watching = True
        with contextlib.suppress(OSError):  # the loop ends, and cancels who waits
            self.worker.watcher.add_reader(self.conn.fd, self._on_news)

    def _on_news(self) -> None:
        self._look_ahead()
        if not self.done and self.is_far_ahead():
            self._flowing = False
            self.worker.watcher.remove_reader(self.conn.fd)

    def _vanished(self) -> None:
        super()._vanished()
        if self._flowing:
            self.cut()

    def cut(self) -> None:
        """As ``Exchange.cut``; the application has ``NOTICE`` seconds to see it."""
        if not self.done:
            super().cut()
            self._release_later()

    def released(self) -> None:
        """Before the connection goes."""
        if self._flowing:
            self._flowing = False
            self.worker.watcher.remove_reader(self.conn.fd)
        super().released()

    def _release_later(self) -> None:
        self.worker.loop.call_later(NOTICE, self._release)

    def _release(self) -> None:
        if self.waited and not self.task.done():
            self.task.cancel()
