"""``wsgi.input`` for a request body that is still arriving: larger than ``limits.buffered_body``, read as it comes.

Promises: a read blocks until it has what was asked for, or the body ends (PEP 3333, "Input and Error Streams"); a body
that breaks off raises ClientGone (an OSError) and never looks complete. While a read waits for a slow client, another
thread serves in this one's place (``BlockingExchange.more_body``). Refuses: reading after the request is over
(ValueError), when the connection may already belong to another thread.

Belongs to the worker's thread, for as long as the application runs.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from ..exchange import ClientGone

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ..blocking import BlockingExchange

# What BufferedReader asks for at once when the application reads by lines or in small pieces.
_BUFFER: Final = 64 * 1024


class RequestBody(io.RawIOBase):
    """The bytes of the body: those that were received before the application was called, then what comes."""

    def __init__(self, exchange: BlockingExchange, received: bytes) -> None:
        self._exchange: BlockingExchange | None = exchange
        self._rest = memoryview(received)
        self._complete = False

    def readable(self) -> bool:
        """True: it is for reading."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` with what is there, waiting for at least a byte; 0 at the end of the body."""
        if not self._rest and not self._complete:
            self._rest = memoryview(self._receive())
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _receive(self) -> bytes:
        exchange = self._exchange
        if exchange is None:
            raise ValueError("wsgi.input was read after the end of its request")
        if exchange.done:  # what comes now may be of the connection's next owner
            raise ClientGone(0, "the exchange ended before the request's body was complete")
        piece = exchange.more_body()
        self._complete = exchange.conn.request is None
        return piece

    def end(self) -> None:
        """The request is over: nothing can be read any more."""
        self._exchange = None
        self._complete = False
        self._rest = memoryview(b"")


def open_body(exchange: BlockingExchange, received: bytes) -> tuple[RequestBody, BinaryIO]:
    """The body's raw stream, and ``wsgi.input`` around it. received: what is here already."""
    raw = RequestBody(exchange, received)
    return raw, cast(BinaryIO, io.BufferedReader(raw, _BUFFER))
