"""The header of the PROXY protocol on a connection, before its TLS handshake or its first request.

Promises: no thread waits for it; what came of it is kept in ``conn.inbox``, and not one byte behind it is taken, so
that the handshake, or the reader, finds its first byte where it would be without. Refuses: a peer that is not in
``proxy.trusted``, before it has sent anything. Belongs to the connection's owner.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final

from ..connection import SINCE, Connection
from ..phases import Phase
from ..seldom import SeldomLog
from .nodes import pack
from .protocol import MOST, BadHeader, parse
from .trust import Trust, who

_say = SeldomLog(logging.getLogger("serverd.worker"))
_CLOSED: Final = "a connection of %s was closed (proxy.protocol): %s"
# Not the one of TlsConnection, which decrypts.
_receive: Final = socket.socket.recv


def expecting[**P](make: Callable[P, Connection]) -> Callable[P, Connection]:
    """``make``, for connections that begin with a header. Any thread."""

    def made(*args: P.args, **kwargs: P.kwargs) -> Connection:
        conn = make(*args, **kwargs)
        conn.phase = Phase.PREFACE
        return conn

    return made


def read_header(conn: Connection, trust: Trust) -> bool:
    """One step: True when the header is there, and the connection is in its next phase.

    Raises EOFError when the connection is over: its client left without a word (as health checks do), or what came is
    no header, which the log says. Raises OSError.
    """
    try:
        return _step(conn, trust)
    except BadHeader as exc:
        _say(_CLOSED, who(conn.peer), exc)
        raise EOFError from exc


def _step(conn: Connection, trust: Trust) -> bool:
    before = conn.inbox
    if not before and not trust.peer(conn.peer):
        raise BadHeader("this peer is not in proxy.trusted")
    try:
        # The kernel keeps it: what stands behind the header is for others to read.
        seen = _receive(conn, MOST, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    if not seen:
        if before:
            raise BadHeader("it ended in the middle of the header")
        raise EOFError
    told = parse(before + seen)
    if told is None:
        conn.inbox = before + _receive(conn, len(seen))
        return False
    left = told.size - len(before)
    while left:
        left -= len(_receive(conn, left))
    conn.inbox = b""
    # Whoever speaks this protocol passes requests on as they are: their fields are the client's own, and count only if
    # that is a proxy by its address. Where no client is named nobody knows whose they are.
    conn.believed = False
    if told.known:
        conn.peer, conn.server = told.client, told.server or conn.local
        address = None if told.client is None else pack(told.client[0])
        conn.believed = address is not None and trust.hop(address)
    conn.move(Phase.HANDSHAKE if conn.secure else Phase.HEAD)
    conn.numbers[SINCE] = monotonic()
    return True


def gave_up(conn: Connection) -> None:
    """The header did not arrive within ``timeouts.head``: say so, if anything has come of it."""
    if conn.inbox:
        _say(_CLOSED, who(conn.peer), "the rest of it did not arrive in time (timeouts.head)")
