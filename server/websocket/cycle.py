"""The ASGI application's view of one WebSocket: ``receive`` and ``send`` (ASGI WebSocket spec 2.5, RFC 6455).

Promises: the application hears ``websocket.connect`` first, each message whole, and ``websocket.disconnect`` when the
connection is over, with the code of whatever ended it: the client's close frame (1005 if it had none), the server's
own reason (1002, 1007, 1009: the client's fault; 1012: this child restarts), 1006 when the connection broke.
Back-pressure works both ways: ``send`` waits while the client does not read, and no more is read while the application
does not take what came. A client that answers no ping is let go of. Refuses: messages out of order (RuntimeError into
the application, as its author must see it); to send anything to a client that has left (``ClientGone``).

Belongs to its host's thread and event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..connection import Connection
from ..exchange import ClientGone, Host
from ..http.events import RequestReceived
from ..http.response import ResponseError
from ..paced import HIGH_WATER, PacedExchange, resolve
from .handshake import Handshake, HandshakeRefused
from .session import Session
from .waiter import Waiter

Message = dict[str, Any]

# How long a client may take to answer our close frame with its own, in seconds; the library's own servers wait 10 s.
CLOSE_TIMEOUT: Final = 5.0
# Bytes that a client may send before it has the answer to its handshake.
_AHEAD: Final = 64 * 1024
_RECEIVE: Final = 64 * 1024

# Where a WebSocket is in its life.
CONNECTING: Final = "CONNECTING"  # the application has not answered
DENYING: Final = "DENYING"  # it answers with an HTTP response of its own
OPEN: Final = "OPEN"
CLOSING: Final = "CLOSING"  # our close frame is sent, or the client's has come; or it is all over


class WebSocketCycle(PacedExchange):
    """See the module."""

    __slots__ = (
        "_beat",
        "_connected",
        "_deadline",
        "_denial",
        "_end",
        "_handshake",
        "_heard",
        "_pinged",
        "_reading",
        "_receivers",
        "_session",
        "state",
    )

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self.state = CONNECTING
        self._connected = False  # websocket.connect was given out
        self._handshake: Handshake | None = None
        self._session: Session | None = None
        self._end: tuple[int, str] | None = None  # what websocket.disconnect says
        self._denial: tuple[int, Any] | None = None  # websocket.http.response.start, until its first body
        self._reading = False
        self._receivers: list[Waiter] = []
        self._beat: asyncio.TimerHandle | None = None
        self._heard = self.since  # monotonic time at which something came
        self._pinged = 0.0  # and at which the last ping was sent
        self._deadline: asyncio.TimerHandle | None = None  # of the closing handshake

    def shake_hands(self) -> bool:
        """Check the handshake, before the application is called. False: it was refused, and the exchange is done."""
        try:
            self._handshake = Handshake(self.request, self.worker.config.websocket.compression)
        except HandshakeRefused as exc:
            self._answer(exc.status, exc.message, exc.headers)
            return False
        return True

    @property
    def subprotocols(self) -> list[str]:
        """Those that the client offers, for the scope."""
        return [] if self._handshake is None else self._handshake.offered.copy()

    # -- receive -------------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next ``websocket.connect``, ``websocket.receive`` or ``websocket.disconnect``."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        session = self._session
        while True:
            if session is None:
                session = self._session
            if session is not None and session.messages:
                message = session.take()
                # At once: while the application works on this one, pings and the client's close want an answer.
                if not self._reading and not session.failing:
                    self._read_on()
                if type(message) is str:
                    return {"type": "websocket.receive", "text": message}
                return {"type": "websocket.receive", "bytes": message}
            if self.done or self._end is not None:
                code, reason = self._end or (1006, "")
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if not self._reading:
                self._read_on()
                if self._end is not None or (session is not None and session.messages):
                    continue
            waiter = Waiter(loop=self.worker.loop)
            self._receivers.append(waiter)
            await waiter

    def _read_on(self) -> None:
        """Take what was held back, and wait for more if there is room for it."""
        session = self._session
        if session is not None and session.held and not session.full:
            self._feed(b"")
        if self.done or (session is not None and session.full) or self.conn.pending_out > HIGH_WATER:
            return
        if session is None and len(self.conn.inbox) >= _AHEAD:
            return
        self._reading = self.watching = True
        self.worker.watcher.add_reader(self.conn.fd, self._on_readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.worker.watcher.remove_reader(self.conn.fd)

    def _on_readable(self) -> None:
        """Called by the loop, so no task is running: who waits may go on in this very call."""
        conn = self.conn
        try:
            data = conn.take(_RECEIVE)
        except OSError:
            data = b""
        if data is None:
            return
        self._heard = monotonic()
        if not data:
            self._broken()
        elif self._session is not None:
            self._feed(data)
        else:
            conn.inbox += data
            if len(conn.inbox) >= _AHEAD:
                self._stop_reading()
            return
        receivers = self._receivers
        if receivers:
            self._receivers = []
            for waiter in receivers:
                waiter.wake()

    def _feed(self, data: bytes) -> None:
        """Let the session have what came, send what it answers, and see whether that was the end."""
        session = self._session
        assert session is not None
        answer = session.feed(data)
        if answer and not self._transmit(answer):
            return
        if session.end is not None and self._end is None:
            self._end = session.end
            self.gone = True
            self.state = CLOSING
        if session.over:
            self._finish()
        elif self._reading and (session.full or self.conn.pending_out > HIGH_WATER):
            self._stop_reading()

    def _broken(self) -> None:
        """The client is gone, with or without saying so before."""
        if self._end is None:
            self._end = (1006, "")
        self.gone = True
        self.cut()

    # -- send ----------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Take a message of the application.

        Raises ClientGone (an OSError) when the client has left, ResponseError and ValueError for what may not go onto
        the wire, RuntimeError for a message that does not belong here.
        """
        kind = message["type"]
        if kind == "websocket.send" and self.state is OPEN:
            session = self._session
            assert session is not None
            text = message.get("text")
            if text is not None:
                data = session.text(text)
            else:
                data = session.binary(_as_bytes(message.get("bytes")))
            self.body_bytes += len(data)
            try:
                self.conn.transmit(data)
            except OSError as exc:
                self._broken()
                raise ClientGone(*exc.args) from exc
            if self.conn.out is not None:
                await self.held_back()
            return
        act = _ACTIONS.get((self.state, kind))
        if act is None:
            self._refuse(kind)
        else:
            act(self, message)
            if self.conn.out is not None and not self.done:
                await self.held_back()

    def _refuse(self, kind: str) -> None:
        """A message that does not belong here. Raises."""
        if self.gone:
            raise ClientGone(0, "the client has disconnected")
        raise RuntimeError(f"unexpected ASGI message {kind!r} while the WebSocket is {self.state}")

    def _accept(self, message: Message) -> None:
        handshake, worker = self._handshake, self.worker
        assert handshake is not None
        if self.done:
            raise ClientGone(0, "the client has disconnected")
        head = handshake.response(
            message.get("subprotocol"), list(message.get("headers") or ()), worker.heads.tick()
        )
        self.status = 101
        if not self._transmit(head):
            raise ClientGone(0, "the client has disconnected")
        config = worker.config.websocket
        self.state = OPEN
        self._session = Session(handshake.protocol, config.max_message)
        if config.ping_interval:
            self._beat = worker.loop.call_later(config.ping_interval, self._on_beat)
        inbox, self.conn.inbox = self.conn.inbox, b""
        if inbox:
            self._feed(inbox)
        if not self.done:
            if not self._reading:
                self._read_on()
            resolve(self._receivers)
        if worker.draining:
            self.drain()

    def _close(self, message: Message) -> None:
        code = message.get("code")
        self._start_closing(1000 if code is None else code, message.get("reason") or "")
        self._end = self._end or (1006, "")
        resolve(self._receivers)

    def _reject(self, message: Message) -> None:
        """RFC 6455 has no close before the handshake: ASGI makes it a 403."""
        self.state = CLOSING
        self._answer(403, "the application does not accept this WebSocket")

    def _deny(self, message: Message) -> None:
        self.state = DENYING
        headers = [*message.get("headers", ()), (b"connection", b"close")]
        self._denial = (message["status"], headers)

    def _deny_body(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._denial is not None:
            status, headers = self._denial
            self._denial = None
            self.begin(status, headers, body, more)
        else:
            self.go_on(body, more)
        if not more:
            self.state = CLOSING

    def _transmit(self, data: bytes) -> bool:
        """Send, and see to what the kernel does not take. False: the client is gone, and so is the connection."""
        self.body_bytes += len(data)
        try:
            if not self.conn.transmit(data):
                self.write_on()
        except OSError:
            self._broken()
            return False
        return True

    def has_room(self) -> None:
        """The client has read: who sends may go on, and what it sends is read again."""
        super().has_room()
        if self.state is not CONNECTING and not self._reading and not self.done:
            self._read_on()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _start_closing(self, code: int, reason: str) -> None:
        """Send the first close frame; the client has ``CLOSE_TIMEOUT`` to answer it. Raises ValueError."""
        session = self._session
        assert session is not None
        data = session.close(code, reason)
        self.state = CLOSING
        self._stop_beat()
        if self._transmit(data):
            self._deadline = self.worker.loop.call_later(CLOSE_TIMEOUT, self.cut)
            if not self._reading:
                self._read_on()

    def _finish(self) -> None:
        """The closing handshake is complete, or the client was told why the connection failed."""
        self.state = CLOSING
        session = self._session
        if session is not None and session.held:
            self.conn.inbox = (
                b"\0"  # it may still be sending: it must be able to read our close frame before a reset
            )
        self._completed(False)

    def fail(self, status: int, message: str) -> None:
        """The server or the application cannot go on: an HTTP error before the handshake, close code 1011 after it."""
        if self.done:
            return
        if self.state is CONNECTING:
            self.state = CLOSING
            self._answer(status, message)
        elif self.state is OPEN:
            self._end = (1011, "")
            self._start_closing(1011, "internal error")
        elif self.state is DENYING:
            self.cut()

    def returned(self) -> str:
        """The application returned: that closes what it left open. What was wrong with it, if anything."""
        if self.state is OPEN:
            self._end = (1000, "")
            self._start_closing(1000, "")
        elif self.state is CONNECTING:
            self.fail(500, "Internal Server Error")
            return "returned without accepting or closing the WebSocket"
        elif self.state is DENYING:
            self.fail(500, "Internal Server Error")
            return "returned before its response was complete"
        return ""

    def drain(self) -> None:
        """This child is to end: the client is asked to connect again (1012, service restart)."""
        if self.state is OPEN and not self.done:
            self._end = (1012, "service restart")
            self.gone = True
            self._start_closing(1012, "service restart")
            resolve(self._receivers)

    def abandon(self) -> None:
        """As the base's; but a closing handshake that is under way goes on to its end, or its deadline."""
        if self._deadline is None:
            self.cut()

    def cut(self) -> None:
        """Close the connection without further words; the application hears of it."""
        if self.done:
            return
        if self._end is None:
            self._end = (1006, "")
            self.gone = True
        self.state = CLOSING
        super().cut()

    def released(self) -> None:
        """Before the connection goes: no timer and no watcher of ours stays, nobody goes on waiting."""
        super().released()
        self._stop_beat()
        if self._deadline is not None:
            self._deadline.cancel()
        self._stop_reading()
        resolve(self._receivers)

    def _answer(self, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """An HTTP response of the server's own, in place of the handshake."""
        lines = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *(headers or ())]
        try:
            self.begin(status, lines, f"{message}\n".encode(), False)
        except ClientGone:
            pass

    # -- keep-alive ----------------------------------------------------------------------------------------------------

    def _on_beat(self) -> None:
        """A client that was silent for ``ping_interval`` is asked whether it is there (RFC 6455 5.5.2)."""
        config = self.worker.config.websocket
        interval, timeout = config.ping_interval, config.ping_timeout
        now = monotonic()
        quiet = now - self._heard
        if not self._reading:  # what we do not read cannot be held against the client
            self._heard, again = now, interval
        elif quiet < interval:
            again = interval - quiet
        elif self._heard > self._pinged or not timeout:
            session = self._session
            assert session is not None
            self._pinged, again = now, min(timeout or interval, interval)
            if not self._transmit(session.ping()):
                return
        elif (left := self._pinged + timeout - now) > 0:
            again = min(left, interval)
        else:
            self._end = (1006, "the client did not answer a ping in time")
            self.gone = True
            self._start_closing(1011, "keepalive ping timeout")
            self.cut()
            return
        self._beat = self.worker.loop.call_later(again, self._on_beat)

    def _stop_beat(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None


# The only authority on what an application may send when.
_ACTIONS: Final[dict[tuple[str, str], Callable[[WebSocketCycle, Message], None]]] = {
    (CONNECTING, "websocket.accept"): WebSocketCycle._accept,
    (CONNECTING, "websocket.close"): WebSocketCycle._reject,
    (CONNECTING, "websocket.http.response.start"): WebSocketCycle._deny,
    (DENYING, "websocket.http.response.body"): WebSocketCycle._deny_body,
    (OPEN, "websocket.close"): WebSocketCycle._close,
}


def _as_bytes(data: object) -> bytes:
    """Raises ResponseError."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ResponseError(f"websocket.send has neither text nor bytes but {type(data).__name__}")
