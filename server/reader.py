"""From a connection's bytes to one complete request: head, limits, body.

Promises: a request is given out only when it is complete, or when ``limits.buffered_body`` bytes of its body are here;
what came behind it stays in ``conn.inbox``; nothing that a client sends makes a buffer larger than the limits. Refuses
(``ProtocolError`` with the status to answer): what the parsers refuse, a body over ``limits.body``, and what a trusted
proxy says and cannot mean.

One reader belongs to one worker, and it only touches connections that this worker owns.
"""

from __future__ import annotations

from typing import Final

from ..config import LimitsConfig, ProxyConfig
from .connection import PROGRESS, SINCE, Connection
from .http import adds_nothing, parse_request
from .http.events import HeadLimits, ProtocolError, RequestReceived
from .http.framing import ChunkedDecoder, SizedDecoder
from .memo import Complete, RequestMemo
from .phases import Phase
from .proxy.headers import Proxies
from .routes import Router, all_on_threads

# One receive takes this much: larger than nearly every request, small enough that the allocation is cheap.
RECEIVE: Final = 16 * 1024
# For bodies: fewer system calls.
RECEIVE_BODY: Final = 256 * 1024
# Smaller pieces of a body are put together: a client that sends two bytes at a time would have us keep 24 times
# as much as it sends (each is an object of 40 bytes and a place in a list).
_SMALL: Final = 4096

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestReader:
    """See the module. ``force_general`` sends every head through h11, for the conformance tests.

    ``route`` says where a request is served, ``proxy`` which proxies are believed.
    """

    __slots__ = (
        "_body",
        "_buffered",
        "_claiming",
        "_force_general",
        "_known",
        "_limits",
        "_proxies",
        "_route",
    )

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        proxy: ProxyConfig | None = None,
        route: Router = all_on_threads,
        force_general: bool = False,
    ) -> None:
        self._limits = HeadLimits(limits.line, limits.head, limits.headers)
        self._body = limits.body
        self._buffered = limits.buffered_body
        self._force_general = force_general
        self._known = RequestMemo()
        # Those with fields of proxies: what they mean does not follow from their bytes alone.
        self._claiming = RequestMemo()
        self._proxies = Proxies(proxy or ProxyConfig())
        self._route = route

    def read(self, conn: Connection) -> Complete | None:  # noqa: C901 - a call more would be paid by every request
        """The next request, or None: then ``conn.phase`` says what the connection waits for, and its SINCE is 0
        when that wait has just begun.

        Raises ProtocolError (answer it and close), EOFError (the client closed its side), OSError (it is gone).
        """
        if conn.request is not None:
            return self._read_body(conn)
        inbox = conn.inbox
        if not inbox or conn.phase == Phase.HEAD:
            try:
                data = conn.recv(RECEIVE)
            except BlockingIOError:
                return None
            if not data:
                raise EOFError
            if inbox and adds_nothing(inbox, data, self._limits):
                conn.inbox = inbox + data
                return None
            inbox = inbox + data if inbox else data
        known = self._known.get(inbox)
        if known is not None:
            conn.inbox = b""
            return known
        if inbox in self._claiming:
            request, body = self._claiming[inbox]
            conn.inbox = b""
            return self._proxies.told(conn, request), body
        if len(inbox) >= RECEIVE:
            conn.rearm = True  # there may be more
        parsed = parse_request(inbox, self._limits, force_general=self._force_general)
        if parsed is None:
            _wait_for_more(conn, inbox)
            return None
        parsed.route = self._route(parsed)
        origin_form = parsed.target.startswith(b"/")
        if not origin_form:
            self._check_scheme(conn, parsed)
        # Before anything of the body is read: a proxy that makes no sense is answered at once.
        request = self._proxies.told(conn, parsed) if parsed.forwarded else parsed
        size = request.head_size
        if not request.content_length and not request.chunked:
            conn.inbox = rest = inbox[size:]
            if not rest and origin_form:
                (self._claiming if parsed.forwarded else self._known).keep(inbox, (parsed, b""))
            return request, b""
        return self._begin_body(conn, request, inbox[size:])

    def _check_scheme(self, conn: Connection, request: RequestReceived) -> None:
        """RFC 9110 7.4: what is asked for as https has to come over TLS, or by way of a trusted gateway."""
        if request.target[:6].lower() == b"https:" and not conn.secure and not self._proxies.trusts(conn):
            fault = ProtocolError(421, "the target is an https URI, and this connection is not secured")
            fault.silent = request.method == "HEAD"
            raise fault

    def _begin_body(self, conn: Connection, request: RequestReceived, rest: bytes) -> Complete | None:
        length = request.content_length
        if self._body and length > self._body:
            conn.request = request  # whose answer this is: that to HEAD has no body
            raise ProtocolError(413, f"the body is larger than {self._body} bytes (limits.body)")
        if not request.chunked and len(rest) >= length:
            conn.inbox = rest[length:]
            return request, rest[:length]
        conn.request = request
        conn.decoder = ChunkedDecoder() if request.chunked else SizedDecoder(length)
        conn.body = []
        conn.body_size = 0
        conn.taken = 0
        conn.inbox = b""
        conn.move(Phase.BODY)
        conn.numbers[SINCE] = 0.0
        if rest:
            self._keep(conn, rest)
        elif request.expect_continue:
            conn.transmit(CONTINUE)
        return self._ready(conn, request)

    def _read_body(self, conn: Connection) -> Complete | None:
        request = conn.request
        assert request is not None
        while True:
            data = conn.take(RECEIVE_BODY)
            if data is None:
                return None
            if not data:
                raise EOFError
            self._keep(conn, data)
            ready = self._ready(conn, request)
            if ready is not None or len(data) < RECEIVE_BODY:
                return ready

    def _keep(self, conn: Connection, data: bytes) -> None:
        piece = self.decode(conn, data)
        if not piece:
            return
        pieces = conn.body
        if pieces and len(piece) < _SMALL and len(pieces[-1]) < _SMALL:
            pieces[-1] += piece
        else:
            pieces.append(piece)

    def decode(self, conn: Connection, data: bytes) -> bytes:
        """The body bytes in ``data``; at the end of the body ``conn.request`` becomes None. Raises ProtocolError."""
        decoder = conn.decoder
        assert decoder is not None
        piece = decoder.feed(data)
        conn.taken += len(data)
        if conn.taken >= PROGRESS:
            conn.taken = 0
            conn.numbers[SINCE] = 0.0
        conn.body_size += len(piece)
        if self._body and conn.body_size > self._body:
            raise ProtocolError(413, f"the body is larger than {self._body} bytes (limits.body)")
        if decoder.complete:
            conn.inbox = decoder.rest
            conn.decoder = None
            conn.request = None
        return piece

    def _ready(self, conn: Connection, request: RequestReceived) -> Complete | None:
        """The request, if its body is complete or as much of it is here as may be buffered."""
        if conn.request is None or (self._buffered and conn.body_size >= self._buffered):
            body = b"".join(conn.body)
            conn.body = []
            return request, body
        return None


def _wait_for_more(conn: Connection, inbox: bytes) -> None:
    """There is less than a head in ``inbox``."""
    conn.inbox = inbox
    if conn.phase != Phase.HEAD:
        conn.move(Phase.HEAD)
        conn.numbers[SINCE] = 0.0
