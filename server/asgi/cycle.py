"""The ASGI application's view of one request: ``receive`` and ``send`` (ASGI HTTP spec 2.5).

Promises: a body that was buffered before the application was called is given in one ``http.request``; a larger one
as it arrives, with back-pressure; ``http.disconnect`` when the client goes away or the response is complete.
``send`` returns at once while the client keeps up and otherwise waits, without holding the thread, until it reads.
Refuses: messages out of order (RuntimeError into the application, as its author must see it).

Belongs to its worker's thread and event loop.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

from ..connection import PROGRESS, SINCE, Connection
from ..exchange import ClientGone, Exchange, Host
from ..http.events import ProtocolError, RequestReceived
from ..http.response import ResponseError
from ..routes import is_event_source

Message = dict[str, Any]

# A streaming application is held back while more than this waits for the client; asyncio's own high-water mark.
HIGH_WATER: Final = 64 * 1024
# Bytes of further pipelined requests that are read while the application waits for a disconnect.
_AHEAD: Final = 64 * 1024

_DISCONNECT: Final = "http.disconnect"


class Cycle(Exchange):
    """See the module."""

    __slots__ = ("_head", "_reading", "_room", "_timer", "_writing")

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self._head: tuple[int, Any] | None = None  # http.response.start, until the first body message
        self._reading: list[asyncio.Future[None]] = []  # who waits for body bytes or the end of the client
        self._room: list[asyncio.Future[None]] = []  # who waits until the client reads
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None

    # -- receive ---------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next ``http.request`` or ``http.disconnect``."""
        body = self.body
        if body is not None:
            self.body = None
            more = not self.done and self.conn.request is not None
            return {"type": "http.request", "body": body, "more_body": more}
        while not self.done and not self.gone and self.conn.request is not None:
            piece = self._more_body()
            if piece is None:
                await self._readable(self._body_time())
            elif piece or self.conn.request is None:
                return {"type": "http.request", "body": piece, "more_body": self.conn.request is not None}
        while not self.done and not self.gone:
            if len(self.conn.inbox) < _AHEAD:
                self._look_ahead()
            if not self.done and not self.gone:
                await self._readable(0, watch=len(self.conn.inbox) < _AHEAD)
        return {"type": _DISCONNECT}

    def _more_body(self) -> bytes | None:
        """Decoded body bytes that have arrived; None when there are none now."""
        conn = self.conn
        try:
            data = conn.take()
            if data is None:
                return None
            if not data:
                self._vanished()
                return b""
            return self.worker.decode(conn, data)
        except OSError:
            self._vanished()
        except ProtocolError as exc:
            self.gone = True
            self.fail(exc.status, exc.message)
        return b""

    def _body_time(self) -> float:
        """Seconds until the next ``PROGRESS`` bytes of the body must be here; 0 for no limit."""
        limit = self.worker.timeouts.body
        numbers = self.conn.numbers
        now = monotonic()
        if not numbers[SINCE]:
            numbers[SINCE] = now
        return max(0.001, numbers[SINCE] + limit - now) if limit else 0

    def _look_ahead(self) -> None:
        """Read what the client sent after its request: its end, or the next requests."""
        conn = self.conn
        try:
            data = conn.take(_AHEAD)
        except OSError:
            self.cut()
            return
        if data == b"":
            self._vanished()
        elif data:
            conn.inbox += data

    def _vanished(self) -> None:
        """The client sends no more. It may still read: a response that is under way goes on until sending fails."""
        self.gone = True
        if self.conn.request is not None:  # a truncated body is never a complete one
            self.cut()

    async def _readable(self, seconds: float, *, watch: bool = True) -> None:
        """Wait until the socket has something, the response is complete, or (answered 408) the time is over."""
        loop = self.worker.loop
        waiter = loop.create_future()
        self._reading.append(waiter)
        self.watching = True
        if watch:
            self.worker.watcher.add_reader(self.conn.fd, _resolve, self._reading)
        timer = loop.call_later(seconds, self._too_slow) if seconds else None
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in self._reading:
                self._reading.remove(waiter)
            if not self._reading and not self.done:
                self.worker.watcher.remove_reader(self.conn.fd)

    def _too_slow(self) -> None:
        self.gone = True
        self.fail(408, "the request body did not arrive in time (timeouts.body)")
        _resolve(self._reading)

    # -- send ------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Take ``http.response.start`` or ``http.response.body``. Raises ClientGone (an OSError), RuntimeError."""
        kind = message["type"]
        if self.done:
            self._refuse_late(message)
        if kind == "http.response.body":
            body = message.get("body", b"")
            more = message.get("more_body", False)
            head = self._head
            if head is not None:
                self._head = None
                self.begin(head[0], head[1], body, more)
                if more and self.worker.draining:
                    self.drain()
            elif self.framer is not None:
                self._stream(body, more)
            else:
                raise RuntimeError("http.response.body came before http.response.start")
            if more and self.conn.out is not None:
                await self._held_back()
        elif kind == "http.response.start":
            if self._head is not None or self.status:
                raise RuntimeError("http.response.start was sent twice")
            self._head = (message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"unexpected ASGI message type {kind!r}")

    def _stream(self, body: bytes, more: bool) -> None:
        try:
            self.go_on(body, more)
        except ResponseError:
            self.cut()
            raise

    def _refuse_late(self, message: Message) -> None:
        if self.complete and not self.gone:
            raise RuntimeError(f"{message['type']} was sent after the response was complete")
        raise ClientGone(0, "the client has disconnected")

    async def _held_back(self) -> None:
        """See that buffered bytes are sent while the application does other things; wait if they are many."""
        loop = self.worker.loop
        if not self._writing:
            self._writing = self.watching = True
            self.conn.taken = 0
            self.worker.watcher.add_writer(self.conn.fd, self._on_writable)
            self._start_timer()
        if self.conn.pending_out > HIGH_WATER:
            waiter = loop.create_future()
            self._room.append(waiter)
            await waiter
            if self.done:
                raise ClientGone(0, "the client did not read the response in time (timeouts.write)")

    def _on_writable(self) -> None:
        conn = self.conn
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
            _resolve(self._room)

    def _start_timer(self) -> None:
        if self.worker.timeouts.write:
            self._timer = self.worker.loop.call_later(self.worker.timeouts.write, self.cut)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drain(self) -> None:
        """End the event stream of a browser, which connects again by itself; all else has until the deadline."""
        if self.done or not is_event_source(self.request):
            return
        try:
            if self._head is not None:
                self.gone = True
                self.begin(self._head[0], self._head[1], b"", False)
            elif self.status:
                self.gone = True
                self.go_on(b"", False)
        except (ResponseError, ClientGone):
            self.cut()

    def released(self) -> None:
        """Before the connection goes: no watcher of this loop stays on its descriptor, nobody goes on waiting."""
        self._stop_timer()
        conn: Connection = self.conn
        if self._writing:
            self._writing = False
            self.worker.watcher.remove_writer(conn.fd)
        if self._reading:
            self.worker.watcher.remove_reader(conn.fd)
        _resolve(self._reading)
        _resolve(self._room)


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    """Wake all of them: two tasks of an application may each be in ``receive``, or in ``send``."""
    for future in waiters:
        if not future.done():
            future.set_result(None)
    waiters.clear()
