"""An exchange for applications that block: WSGI reads and writes on its thread, and waits there for the client.

Promises: a client that keeps the thread waiting costs the child no worker, as another takes its place first
(``Host.relieve``); it is cut off by the same deadlines as everywhere. Refuses: to be used from a coroutine.

Belongs to its worker's thread.
"""

from __future__ import annotations

import select
from time import monotonic
from typing import Final

from .connection import PROGRESS, SINCE
from .exchange import ClientGone, Exchange
from .http.events import ProtocolError
from .reader import RECEIVE_BODY
from .slots import READING, RUNNING, WRITING

# The application may be so many bytes ahead of its client before its thread waits: most responses fit in whole, and
# then the connection is parked with them and the thread goes on.
AHEAD: Final = 256 * 1024


class BlockingExchange(Exchange):
    """See the module."""

    __slots__ = ()

    def more_body(self) -> bytes:
        """The next bytes of a body that was not buffered whole; b"" at its end. Blocks.

        Raises ClientGone when the rest will not come: the client left, was too slow (and got 408) or broke the framing.
        """
        conn = self.conn
        while not self.done and conn.request is not None:
            try:
                data = conn.take(RECEIVE_BODY)
                piece = self.worker.decode(conn, data) if data else b""
            except ProtocolError as exc:
                self._give_up(exc.status, exc.message)
            except OSError as exc:
                self.gone = True
                self.cut()
                raise ClientGone(*exc.args) from exc
            if data == b"":
                self.gone = True
                self.cut()
                raise ClientGone(0, "the client left before the request's body was complete")
            if piece:
                return piece
            if data is None and not self._wait(select.POLLIN, self._body_time()):
                self._give_up(408, "the request body did not arrive in time (timeouts.body)")
        return b""

    def wait_for_room(self) -> None:
        """Send what waits; blocks while the client is more than ``AHEAD`` bytes behind. Raises ClientGone."""
        conn = self.conn
        since = monotonic()
        limit = self.worker.timeouts.write
        try:
            while not self.done and not conn.flush() and conn.pending_out > AHEAD:
                if conn.taken >= PROGRESS:
                    conn.taken = 0
                    since = monotonic()
                if not self._wait(select.POLLOUT, since + limit - monotonic() if limit else 0):
                    raise ClientGone(0, "the client did not read the response in time (timeouts.write)")
        except OSError as exc:
            self.gone = True
            self.cut()
            if isinstance(exc, ClientGone):
                raise
            raise ClientGone(*exc.args) from exc
        if self.done and not self.complete:
            raise ClientGone(0, "the client has disconnected")

    def _wait(self, event: int, seconds: float) -> bool:
        """Block until the socket has something, for at most ``seconds`` (0: no limit). False when they are over."""
        worker = self.worker
        worker.relieve()
        poll = select.poll()
        poll.register(self.conn.fd, event)
        worker.slot.client_holds(READING if event == select.POLLIN else WRITING)
        try:
            return bool(poll.poll(max(1.0, seconds * 1000) if seconds else None))
        finally:
            worker.slot.client_holds(RUNNING)

    def _body_time(self) -> float:
        numbers = self.conn.numbers
        if not numbers[SINCE]:
            numbers[SINCE] = monotonic()
        limit = self.worker.timeouts.body
        return max(0.001, numbers[SINCE] + limit - monotonic()) if limit else 0

    def _give_up(self, status: int, message: str) -> None:
        """Answer for the application that it is over. Raises ClientGone into it."""
        self.gone = True
        self.fail(status, message)
        raise ClientGone(0, message)
