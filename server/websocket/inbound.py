"""What comes from the client of a WebSocket: read from its connection, kept until the application takes it.

Promises: what waits is bounded (see ``session``), and no more is read while it is too much, or while the client does
not take our answers; reading goes on as soon as there is room, so that pings and the client's close frame are
answered while the application works on a message. Refuses: to know what the application may send.

Belongs to its host's thread and event loop.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

from ..connection import PROGRESS, Connection
from ..host import Host
from ..http.events import RequestReceived
from ..paced import HIGH_WATER, PacedExchange, resolve
from ..slots import WEBSOCKET
from .keepalive import KeepAlive
from .session import Session

Message = dict[str, Any]

# Bytes that a client may send before it has the answer to its handshake.
_AHEAD: Final = 64 * 1024
_RECEIVE: Final = 64 * 1024

# Where a WebSocket is in its life.
CONNECTING: Final = "CONNECTING"  # the application has not answered
DENYING: Final = "DENYING"  # it answers with an HTTP response of its own
OPEN: Final = "OPEN"
CLOSING: Final = "CLOSING"  # our close frame is sent, or the client's has come; or it is all over


class Inbound(PacedExchange):
    """See the module. ``outcome``: code and reason for ``websocket.disconnect``, once they are known."""

    kind = WEBSOCKET
    __slots__ = (
        "_connected",
        "_continues",
        "_reading",
        "_receivers",
        "_unheard",
        "beats",
        "ending",
        "outcome",
        "session",
        "state",
    )

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        super().__init__(worker, conn, request, body)
        self.state = CONNECTING
        self.session: Session | None = None  # once the WebSocket is open
        self.outcome: tuple[int, str] | None = None
        self.ending = False  # nothing more is read, and it closes when the application waits for more
        self.beats: KeepAlive | None = None
        self._connected = False  # websocket.connect was given out
        self._reading = False
        self._continues = False  # the rest of what came is looked at in the loop's next turn
        self._unheard = 0  # bytes since the last whole frame
        self._receivers: list[asyncio.Future[None]] = []

    async def receive(self) -> Message:
        """The next ``websocket.connect``, ``websocket.receive`` or ``websocket.disconnect``."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while True:
            session = self.session
            if session is not None and session.messages:
                message = session.take()
                if not self._reading and not session.failing:
                    self.read_on()
                if type(message) is str:
                    return {"type": "websocket.receive", "text": message}
                return {"type": "websocket.receive", "bytes": message}
            if self.done or self.outcome is not None:
                code, reason = self.outcome or (1006, "")
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if not self._reading:
                self.read_on()
                if self.outcome is not None or (session is not None and session.messages):
                    continue
            if self.ending and not (session is not None and session.more):
                self.end_now()
            else:
                await self._news()

    async def _news(self) -> None:
        """Wait until ``wake`` is called.

        Woken by way of the loop, although the callback that reads could run the waiting task itself: tried, and slower,
        as what comes in one turn of the loop is then no longer read in one go (docs/design-notes.md).
        """
        waiter = self.worker.loop.create_future()
        self._receivers.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._receivers:
                self._receivers.remove(waiter)
            raise

    @property
    def reading(self) -> bool:
        """Whether the connection is read now."""
        return self._reading

    def wake(self) -> None:
        """Let whoever waits in ``receive`` look again."""
        resolve(self._receivers)

    @property
    def waited_for(self) -> bool:
        """Whether the application waits in ``receive``."""
        return bool(self._receivers)

    def end_now(self) -> None:
        """What ``ending`` announced. It sets ``outcome``."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Take what was held back, and wait for more if there is room for it."""
        if self.done:
            return
        session = self.session
        if session is not None and session.held and not session.full:
            self.feed(b"")
        if self.done or self.ending or self._reading or self.conn.pending_out > HIGH_WATER:
            return
        if self._continues:  # when the others have had their turn
            return
        if session.full if session is not None else len(self.conn.inbox) >= _AHEAD:
            return
        self._reading = self.watching = True
        self.worker.watcher.add_reader(self.conn.fd, self._on_readable)

    def has_room(self) -> None:
        """The client has read: who sends may go on, and what it sends is read again."""
        super().has_room()
        session = self.session
        if session is not None and not session.failing and not self._reading and not self.done:
            self.read_on()

    def stop_reading(self) -> None:
        """Leave what comes to TCP."""
        if self._reading:
            self._reading = False
            self.worker.watcher.remove_reader(self.conn.fd)

    def _on_readable(self) -> None:
        conn = self.conn
        try:
            data = conn.take(_RECEIVE)
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            self.broken()
        elif self.session is not None:
            frames = self.session.frames
            self.feed(data)
            # A frame that comes byte by byte is no sign of life: it would be kept, with all of its bytes, for ever.
            self._unheard += len(data)
            if self.beats is not None and (self.session.frames != frames or self._unheard >= PROGRESS):
                self.beats.heard = monotonic()
                self._unheard = 0
        else:
            conn.inbox += data
            if len(conn.inbox) >= _AHEAD:
                self.stop_reading()

    def feed(self, data: bytes) -> None:
        """Let the session have what came, send what it answers, and see whether that was the end."""
        session = self.session
        assert session is not None
        answer = session.feed(data)
        if answer and not self.transmit(answer):
            return
        if session.end is not None and self.outcome is None:
            self.outcome = session.end
            self.gone = True
            self.state = CLOSING
        if session.over:
            self.finish()
            return
        if session.more and not self._continues:
            self._continues = True
            self.worker.loop.call_soon(self._continue)
        if self._reading and (session.more or session.full or self.conn.pending_out > HIGH_WATER):
            self.stop_reading()
        if self._receivers and (session.messages or self.outcome is not None):
            resolve(self._receivers)

    def _continue(self) -> None:
        self._continues = False
        self.read_on()
        if self.ending:
            self.wake()

    def transmit(self, data: bytes) -> bool:
        """Send, and see to what the kernel does not take. False: the client is gone, and so is the connection."""
        self.body_bytes += len(data)
        try:
            if not self.conn.transmit(data):
                self.write_on()
        except OSError:
            self.broken()
            return False
        return True

    def broken(self) -> None:
        """The client is gone, with or without saying so before."""
        self.gone = True
        self.cut()

    def finish(self) -> None:
        """The closing handshake is complete, or the client was told why the connection failed."""
        self.state = CLOSING
        if self.session is not None and (self.session.held or self.session.failed):
            # It may still be sending, and a connection that is closed with bytes unread is reset: linger, so that it
            # can read our close frame.
            self.conn.inbox = b"\0"
        self._completed(False)

    def released(self) -> None:
        """Before the connection goes: no timer and no watcher of ours stays, nobody goes on waiting."""
        super().released()
        if self.beats is not None:
            self.beats.stop()
            self.beats = None
        self.stop_reading()
        resolve(self._receivers)
