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
from typing import Any, Final

from ..connection import Connection
from ..exchange import ClientGone
from ..host import Host
from ..http.events import RequestReceived
from ..http.response import ResponseError
from .handshake import Handshake, HandshakeRefused
from .inbound import CLOSING, CONNECTING, DENYING, OPEN, Inbound, Message
from .keepalive import KeepAlive
from .session import Session

# How long a client may take to answer our close frame with its own, in seconds; the library's own servers wait 10 s.
CLOSE_TIMEOUT: Final = 5.0
# How long a drain waits for the application to come back for the next message, in seconds. One that sends on its own
# account may never do so, and every reload would wait for it.
QUIET: Final = 1.0


class WebSocketCycle(Inbound):
    """See the module."""

    __slots__ = ("_deadline", "_denial", "_handshake")

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self._handshake: Handshake | None = None
        self._denial: tuple[int, Any] | None = None  # websocket.http.response.start, until its first body
        self._deadline: asyncio.TimerHandle | None = None  # of the closing handshake, or of a drain before it

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

    # -- send ----------------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """Take a message of the application.

        Raises ClientGone (an OSError) when the client has left, ResponseError and ValueError for what may not go onto
        the wire, RuntimeError for a message that does not belong here.
        """
        kind = message["type"]
        if kind == "websocket.send" and self.state is OPEN:
            session = self.session
            assert session is not None
            text = message.get("text")
            if isinstance(text, str):
                data = session.text(text)
            elif text is not None:
                raise ResponseError(f"the text of websocket.send is {type(text).__name__}, it must be str")
            else:
                data = session.binary(_as_bytes(message.get("bytes")))
            self.body_bytes += len(data)
            try:
                self.conn.transmit(data)
            except OSError as exc:
                self.broken()
                raise ClientGone(*exc.args) from exc
            if self.conn.out is not None:
                await self.held_back()
            return
        act = _ACTIONS.get((self.state, kind))
        if act is None:
            self._refuse(kind)
        else:
            act(self, message)
            if self.state is DENYING and self.conn.out is not None:
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
        if not self.transmit(head):
            raise ClientGone(0, "the client has disconnected")
        config = worker.config.websocket
        self.state = OPEN
        self.session = Session(handshake.protocol, config.max_message)
        self._handshake = None
        self.watching = True  # also when what came with the handshake ends it: the pings have a timer
        if config.ping_interval:
            self.beats = KeepAlive(
                worker.loop,
                config.ping_interval,
                config.ping_timeout,
                listening=lambda: self.reading,
                ping=self._ping,
                lost=self._lost,
            )
        inbox, self.conn.inbox = self.conn.inbox, b""
        if inbox:
            self.feed(inbox)
        self.read_on()
        self.wake()
        if worker.ending:
            self.drain()

    def _close(self, message: Message) -> None:
        code, reason = message.get("code"), message.get("reason") or ""
        self._start_closing(1000 if code is None else code, reason)
        self.outcome = self.outcome or (1000 if code is None else code, reason)
        self.wake()

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

    # -- the end -------------------------------------------------------------------------------------------------------

    def _start_closing(self, code: int, reason: str, *, hurry: bool = False) -> None:
        """Send the first close frame; the client has ``CLOSE_TIMEOUT`` to answer it. Raises ValueError.

        That time begins when all has been sent that stands before it, however slowly the client reads
        (``timeouts.write``); with ``hurry``, now.
        """
        session = self.session
        assert session is not None
        data = session.close(code, reason)
        self.state = CLOSING
        self.ending = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.beats is not None:
            self.beats.stop()
        if not self.transmit(data):
            return
        if session.over:
            self.finish()  # it was about to be failed: that is what the client was told
        else:
            if hurry or self.conn.out is None:
                self._await_answer()
            self.read_on()

    def _await_answer(self) -> None:
        if self._deadline is None:
            self._deadline = self.worker.loop.call_later(CLOSE_TIMEOUT, self.cut)

    def has_room(self) -> None:
        """As the base's; when the close frame is on its way, it is the client's turn."""
        super().has_room()
        if self.state is CLOSING and not self.done and self.conn.out is None:
            self._await_answer()

    def fail(self, status: int, message: str) -> None:
        """The server or the application cannot go on: an HTTP error before the handshake, close code 1011 after it."""
        if self.done:
            return
        if self.state is CONNECTING:
            self.state = CLOSING
            self._answer(status, message)
        elif self.state is OPEN:
            self.outcome = (1011, "")
            self._start_closing(1011, "internal error")
        elif self.state is DENYING:
            self.state = CLOSING
            super().fail(status, message)

    def returned(self) -> str:
        """The application returned: that closes what it left open. What was wrong with it, if anything."""
        if self.state is OPEN:
            self.outcome = (1000, "")
            self._start_closing(1000, "")
        elif self.state is CONNECTING:
            self.fail(500, "Internal Server Error")
            return "returned without accepting or closing the WebSocket"
        elif self.state is DENYING:
            self.fail(500, "Internal Server Error")
            return "returned before its response was complete"
        return ""

    def drain(self) -> None:
        """This child is to end: the client is asked to connect again (1012, service restart).

        That is when the application waits for the next message, so that none is left without its answer; or after
        ``QUIET`` seconds. No more is read until then.
        """
        if self.state is OPEN and not self.done and not self.ending:
            self.ending = True
            self.stop_reading()
            if self.waited_for:
                self.end_now()
            else:
                self._deadline = self.worker.loop.call_later(QUIET, self.end_now)
        elif self.state is CLOSING and not self.done:
            self._await_answer()

    def end_now(self) -> None:
        """See ``drain``."""
        if self.state is OPEN:
            self.outcome = (1012, "service restart")
            self.gone = True
            self._start_closing(1012, "service restart", hurry=True)
            self.wake()

    def abandon(self) -> None:
        """As the base's; but a closing handshake that is under way goes on to its end, or its deadline."""
        if self.state is not CLOSING:
            self.cut()

    def cut(self) -> None:
        """Close the connection without further words; the application hears of it."""
        if self.done:
            return
        if self.outcome is None:
            self.outcome = (1006, "")
            self.gone = True
        self.state = CLOSING
        super().cut()

    def released(self) -> None:
        """As the base's, and the deadline is off."""
        super().released()
        if self._deadline is not None:
            self._deadline.cancel()

    def _ping(self) -> None:
        assert self.session is not None
        self.transmit(self.session.ping())

    def _lost(self) -> None:
        """The client did not answer a ping in time. It may yet hear why, if it is only slow."""
        self.outcome = (1006, "the client did not answer a ping in time")
        self.gone = True
        self._start_closing(1011, "keepalive ping timeout")
        self.cut()

    def _answer(self, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """An HTTP response of the server's own, in place of the handshake."""
        lines = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *(headers or ())]
        try:
            self.begin(status, lines, f"{message}\n".encode(), False)
        except ClientGone:
            pass


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
    raise ResponseError(f"websocket.send has no text, and its bytes are {type(data).__name__}")
