"""The ASGI application's view of one request: ``receive`` and ``send`` (ASGI HTTP spec 2.5).

Promises: a body that was buffered before the application was called is given in one ``http.request``; a larger one
as it arrives, with back-pressure; ``http.disconnect`` when the client goes away or the response is complete.
``send`` returns at once while the client keeps up and otherwise waits, without holding the thread, until it reads.
Files, trailers and early hints are sent as docs/http.md says (ASGI extensions ``http.response.pathsend``,
``zerocopysend``, ``trailers`` and ``early_hint``). Refuses: messages out of order (RuntimeError into the application,
as its author must see it).

Belongs to its worker's thread and event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..connection import SINCE, Connection
from ..exchange import ClientGone, Exchange
from ..file_range import FileRange, FileShrank
from ..host import Host
from ..http.events import ProtocolError, RequestReceived
from ..http.response import ResponseError
from ..paced import PacedExchange, resolve

Message = dict[str, Any]

# Bytes of further pipelined requests that are read while the application waits for a disconnect.
_AHEAD: Final = 64 * 1024

_DISCONNECT: Final = "http.disconnect"

# Of a response that was started with `trailers: True`; the others have none.
_NO_TRAILERS: Final = 0
_DISCARDED: Final = 1  # the client did not ask for them
_AWAITED: Final = 2  # they come behind the last piece of body
_DUE: Final = 3  # which is sent


class Cycle(PacedExchange):
    """See the module."""

    __slots__ = ("_fields", "_head", "_reading", "_trailers")

    _fields: list[tuple[bytes, bytes]]  # of the trailers so far, once they are awaited

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        # What PacedExchange does, without its call: this is done for every request.
        Exchange.__init__(self, worker, conn, request, body)
        self._room = []
        self._writing = False
        self._slow = None
        self._head: tuple[int, Any] | None = None  # http.response.start, until the first body message
        self._reading: list[asyncio.Future[None]] = []  # who waits for body bytes or the end of the client
        self._trailers = _NO_TRAILERS

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
            if not self.is_far_ahead():
                self._look_ahead()
            if not self.done and not self.gone:
                await self._readable(0, watch=not self.is_far_ahead())
        return {"type": _DISCONNECT}

    def is_far_ahead(self) -> bool:
        """Whether so many bytes of further requests are here that no more are read."""
        return len(self.conn.inbox) >= _AHEAD

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
            self.worker.watcher.add_reader(self.conn.fd, resolve, self._reading)
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
        resolve(self._reading)

    # -- send ------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:  # noqa: C901 - one branch for each message
        """Take one message of the response.

        Raises ClientGone (an OSError), RuntimeError, ResponseError, and for files FileShrank and what opening one does.
        """
        kind = message["type"]
        if self.done:
            self._refuse_late(message)
        elif kind == "http.response.body":
            body = message.get("body", b"")
            more = message.get("more_body", False)
            head = self._head
            if self._trailers:
                self._send_piece(kind, body, more)
            elif head is not None:
                self._head = None
                self.begin(head[0], head[1], body, more)
            elif self.framer is not None:
                try:
                    self.go_on(body, more)
                except ResponseError:
                    self.cut()
                    raise
            else:
                raise RuntimeError("http.response.body came before http.response.start")
            if more and self.conn.out is not None and not self.done:  # done: a drain has ended the stream
                await self.held_back()
        elif kind == "http.response.start":
            if self._head is not None or self.status:
                raise RuntimeError("http.response.start was sent twice")
            self._head = (message["status"], message.get("headers", ()))
            if "trailers" in message:
                self._expect_trailers(message["trailers"])
        elif extension := _EXTENSIONS.get(kind):
            extension(self, message)
            if self.conn.out is not None and not self.done:
                await self.held_back()
        else:
            raise RuntimeError(f"unexpected ASGI message type {kind!r}")

    def _refuse_late(self, message: Message) -> None:
        if message["type"] == "http.response.trailers" and self.complete and self._trailers == _DISCARDED:
            return
        if self.complete and not self.gone:
            raise RuntimeError(f"{message['type']} was sent after the response was complete")
        raise ClientGone(0, "the client has disconnected")

    # -- extensions --------------------------------------------------------------------------------------------------

    def _send_path(self, message: Message) -> None:
        """http.response.pathsend: the file is the whole body."""
        if self._head is None:
            came = "after http.response.body" if self.status else "before http.response.start"
            raise RuntimeError(f"http.response.pathsend came {came}")
        self._send_piece(message["type"], FileRange.whole(message["path"]), False)

    def _send_part(self, message: Message) -> None:
        """http.response.zerocopysend: part of a file is a piece of the body."""
        if self._head is None and self.framer is None:
            raise RuntimeError("http.response.zerocopysend came before http.response.start")
        part = FileRange.part(message["file"], message.get("offset"), message.get("count"))
        self._send_piece(message["type"], part, message.get("more_body", False))

    def _send_piece(self, kind: str, piece: bytes | FileRange, more: bool) -> None:
        """Send a piece of body that is a file, or of a response that was started with trailers."""
        trailers = self._trailers >= _AWAITED
        if self._trailers == _DUE:
            if isinstance(piece, FileRange):
                piece.close()
            raise RuntimeError(f"{kind} came where http.response.trailers was due")
        if trailers and not more:
            self._trailers = _DUE
            more = True
        head = self._head
        self._head = None
        try:
            if head is None:
                if isinstance(piece, FileRange):
                    self.go_on_file(piece, more)
                else:
                    self.go_on(piece, more)
            elif isinstance(piece, FileRange):
                self.begin_file(head[0], head[1], piece, more, trailers)
            else:
                self.begin(head[0], head[1], piece, more, trailers)
        except ResponseError, FileShrank:
            if self.status:
                self.cut()
            else:
                self._trailers = _NO_TRAILERS  # nothing has happened: another response may take its place
            raise

    def _expect_trailers(self, announced: bool) -> None:
        if announced:
            asked_for = self.request.trailers and self.request.method != "HEAD"
            self._trailers = _AWAITED if asked_for else _DISCARDED
            self._fields = []

    def _send_trailers(self, message: Message) -> None:
        """http.response.trailers: the fields go out together, with the last message of them."""
        if self._trailers == _DISCARDED:
            return
        if self._trailers != _DUE:
            said = self._trailers == _AWAITED
            why = (
                "before the last http.response.body"
                if said
                else "without trailers: True in http.response.start"
            )
            raise RuntimeError(f"http.response.trailers came {why}")
        self._fields += message.get("headers", ())
        if message.get("more_trailers", False):
            return
        try:
            self.end(self._fields)
        except ResponseError:
            self.cut()
            raise

    def _send_hint(self, message: Message) -> None:
        """http.response.early_hint: dropped where the client would not understand it, or the response has begun."""
        links = [(b"link", link) for link in message["links"]]
        if links and not self.status and self.request.version == "1.1":
            self.interim(103, links)

    def released(self) -> None:
        """Before the connection goes: no watcher of this loop stays on its descriptor, nobody goes on waiting."""
        super().released()
        # Also when nobody is in `_reading`: who was woken in this turn of the loop has not taken its reader back yet.
        self.worker.watcher.remove_reader(self.conn.fd)
        resolve(self._reading)


_EXTENSIONS: Final[dict[str, Callable[[Cycle, Message], None]]] = {
    "http.response.pathsend": Cycle._send_path,
    "http.response.zerocopysend": Cycle._send_part,
    "http.response.trailers": Cycle._send_trailers,
    "http.response.early_hint": Cycle._send_hint,
}
