"""Heads that come again: parsed and written heads, remembered by one worker.

Clients on keep-alive connections send the same head again and again (polling, health checks, load balancers,
API clients), and applications answer with the same few heads. Parsing and framing are pure functions, so
their results may be kept: of 1,400 bytecodes that a small request took, 600 went there. Promises: what comes out is
what the parser and the framer gave for exactly these bytes and values; memory is bounded (``MOST`` entries for requests
and as many for responses, and their heads are ``MOST`` times ``LONGEST`` bytes together at most). Refuses: heads with a
body behind them, and anything unhashable.

Belongs to one worker: nothing here is shared between threads.
"""

from __future__ import annotations

from email.utils import formatdate
from time import monotonic, time
from typing import Final

from .http.events import RequestReceived

MOST: Final = 256
LONGEST: Final = 1024
# A request's head may be longer than its share: with cookies 2 to 4 KiB are usual, and to parse it costs five times as
# much as all the rest of a small request.
LONGEST_REQUEST: Final = 8 * 1024

Complete = tuple[RequestReceived, bytes]
# (the head with its empty line, whether the connection goes on)
Framed = tuple[bytes, bool]


class RequestMemo(dict[bytes, Complete]):
    """From the bytes of a head, with nothing behind it, to the request: who takes one must not change it."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def keep(self, head: bytes, complete: Complete) -> None:
        """Remember ``complete`` for ``head``; when there are too many, or too many bytes, all are forgotten."""
        size = len(head)
        if size <= LONGEST_REQUEST:
            if len(self) >= MOST or self._bytes + size > MOST * LONGEST:
                self.clear()
                self._bytes = 0
            self[head] = complete
            self._bytes += size
            complete[0].scope = {}


class ResponseMemo(dict[object, Framed]):
    """From what determines a response head to its bytes, for the second in which its Date is true."""

    __slots__ = ("_until", "date", "until")

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0
        self.date = b""
        self.until = 0.0  # so long, by the monotonic clock, `date` need not be asked for

    def tick(self) -> bytes:
        """The value of Date now (RFC 9110 6.6.1), made once a second; then what was remembered is forgotten."""
        now = time()
        # A clock that was set back shows in the second comparison.
        if now >= self._until or now < self._until - 1:
            self._until = int(now) + 1
            self.date = formatdate(now, usegmt=True).encode("ascii")
            self.clear()
        self.until = monotonic() + self._until - now
        return self.date

    def keep(self, key: object, data: bytes, body: bytes, keep_alive: bool) -> Framed | None:
        """Remember the head of ``data``, if ``data`` is that head and then just ``body``. None if it is not."""
        size = data.find(b"\r\n\r\n") + 4
        if len(self) >= MOST or size > LONGEST or data[size:] != body:
            return None
        self[key] = framed = (data[:size], keep_alive)
        return framed
