"""Large pieces of body, sent from where the application has them.

A head and a small body go out in one write, which copies both. Of a large body the copy would be kept for as long as
the client reads: a constant of 10 MB cost 10 MB for each client that was slow. Pure functions; any thread may call
them.
"""

from __future__ import annotations

from typing import Final, cast

from .http.fields import Pairs
from .http.response import Around, ResponseFramer

# Larger pieces are not copied.
LARGE: Final = 128 * 1024
# So much of one goes out with the head: small packets, and small records of TLS, would be one more for the client too.
_FIRST: Final = 64 * 1024


def begin_pieces(
    framer: ResponseFramer, status: int, headers: Pairs, date: bytes, body: bytes, more: bool, trailers: bool
) -> list[bytes]:
    """As ``framer.start``: one piece, or several for ``Connection.transmit_all``. Raises ResponseError."""
    if len(body) <= LARGE:
        return [framer.start(status, headers, date, body, more, trailers)]
    return _uncopied(framer.start_around(status, headers, date, len(body), more, trailers), body)


def body_pieces(framer: ResponseFramer, body: bytes, more: bool) -> list[bytes]:
    """As ``framer.body``; empty if nothing is to be sent. Raises ResponseError."""
    if len(body) <= LARGE:
        data = framer.body(body, more)
        return [data] if data else []
    return _uncopied(framer.around(len(body), more), body)


def _uncopied(around: Around, body: bytes) -> list[bytes]:
    """``body`` with what goes around it; some of it are views that only look like bytes."""
    before, wanted, after = around
    if not wanted:
        return [before] if before else []
    rest = cast("bytes", memoryview(body)[_FIRST:])
    return [before + body[:_FIRST], rest, after] if after else [before + body[:_FIRST], rest]
