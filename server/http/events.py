"""What the HTTP/1.1 parsers hand out: a request's head, the limits it had to keep, and the error that ends it all.

Promises: plain data, no behaviour; everything here is made and used by one thread at a time (the one that owns the
connection), except ``HeadLimits``, which are never changed. Refuses: to know anything of sockets, time or the
application.
"""

from __future__ import annotations

from typing import Any, Final

Headers = list[tuple[bytes, bytes]]

# No buffer comes near it, and it is the largest number that CPython compares in its quickest way.
UNLIMITED: Final = 2**30 - 1


class ProtocolError(Exception):
    """The client broke HTTP/1.1 or asked for what this server does not do; answer ``status`` and close the connection.

    ``message`` is one line of printable ASCII that says what was wrong. It never holds bytes that the client sent, so
    that it may be logged and sent as it is. After this error the rest of the connection cannot be trusted. ``silent``:
    the request began with HEAD, so that whoever passed it on takes the answer's body for the next response.
    """

    silent = False

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class HeadLimits:
    """How much of a head is taken. 0 means unlimited, as everywhere in the configuration.

    line: bytes of the request line without its CRLF; longer is 414.
    head: bytes of the whole head with its closing empty line (and one empty line before it); larger is 431.
    headers: number of field lines; more is 431.
    within: a head of so many bytes keeps ``line`` and ``head``, so that one comparison is enough for nearly all.

    Never changed after it was made; every thread may read it. Not a NamedTuple, because a slot is read in 3 ns and an
    element of a NamedTuple in 30.
    """

    __slots__ = ("head", "headers", "line", "within")

    def __init__(self, line: int, head: int, headers: int) -> None:
        self.line = line or UNLIMITED
        self.head = head or UNLIMITED
        self.headers = headers or UNLIMITED
        self.within = min(self.line, self.head)


class Origin:
    """Who sent a request, and whereto, as the proxies in front have said it. Never changed after it was made.

    client: (host, port) with port 0 where it is not known; None where the proxy does not say, or of a unix socket.
    secure: whether the client spoke TLS.
    server: (host, port) that the client has called; (path, None) of a unix socket; None where nobody knows.
    name: the client in one word, for the log.
    """

    __slots__ = ("client", "name", "secure", "server")

    def __init__(
        self, client: tuple[str, int] | None, secure: bool, server: tuple[str, int | None] | None, name: str
    ) -> None:
        self.client = client
        self.secure = secure
        self.server = server
        self.name = name


class RequestReceived:
    """A complete and checked request head. Belongs to the thread that has the connection.

    method: as sent; RFC 9110 9.1: case-sensitive, so "get" is not "GET".
    target: the request target as sent (RFC 9112 3.2).
    raw_path: the path in origin-form, still percent-encoded, without the query; b"*" for ``OPTIONS *``.
    query: what follows the first "?", b"" if nothing does.
    version: "1.1" or "1.0".
    headers: (lower-case name, value without white space around it), in the order and number received. For an
        absolute-form target the value of "host" is the authority of the target (RFC 9112 3.2.2).
    content_length: bytes of body announced; 0 if none, and 0 if ``chunked``.
    chunked: the body comes in chunks (RFC 9112 7.1).
    keep_alive: the client is willing to go on after the response (RFC 9112 9.3).
    expect_continue: the client waits for "100 Continue" before it sends its body (RFC 9110 10.1.1).
    upgrade: HTTP/1.1 with an Upgrade field that the Connection field names (RFC 9110 7.8).
    head_size: bytes of the buffer that the head took; the body, or the next request, begins there.
    trailers: HTTP/1.1 with a TE field that lists "trailers" (RFC 9110 10.1.4).
    route: where it is served; 0 here, set by the reader (see ``server.routes``).
    forwarded: it has a field by which proxies tell of clients, whether or not anybody believes it.
    origin: what a trusted proxy has said; None here, and where the connection itself says all that is known.
    scope: None here; for a request that is remembered, what is the same in each of its scopes (``server.asgi.scope``):
        empty until it has come again.
    answer: None here; for a request that is remembered, the head of its last response and what that came from
        (``server.exchange``).
        Of a request that the home loop serves too, worker and loop may both set these two: each is replaced whole
        and never changed, and an answer counts only for who made its Date, so either may win.
    """

    __slots__ = (
        "answer",
        "chunked",
        "content_length",
        "expect_continue",
        "forwarded",
        "head_size",
        "headers",
        "keep_alive",
        "method",
        "origin",
        "query",
        "raw_path",
        "route",
        "scope",
        "target",
        "trailers",
        "upgrade",
        "version",
    )

    # Positional and without a dataclass: CPython inlines this call; 12 slots cost 0.15 us, a NamedTuple 0.4 us.
    def __init__(
        self,
        method: str,
        target: bytes,
        raw_path: bytes,
        query: bytes,
        version: str,
        headers: Headers,
        content_length: int = 0,
        chunked: bool = False,
        keep_alive: bool = True,
        expect_continue: bool = False,
        upgrade: bool = False,
        head_size: int = 0,
    ) -> None:
        self.method = method
        self.target = target
        self.raw_path = raw_path
        self.query = query
        self.version = version
        self.headers = headers
        self.content_length = content_length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.upgrade = upgrade
        self.head_size = head_size
        self.trailers = False
        self.route = 0
        self.forwarded = False
        self.origin: Origin | None = None
        self.scope: dict[str, Any] | None = None
        self.answer: tuple[Any, ...] | None = None

    def told(self, origin: Origin, headers: Headers) -> RequestReceived:
        """This request with what proxies say of it, as another object."""
        other = RequestReceived(
            self.method, self.target, self.raw_path, self.query, self.version, headers,
            self.content_length, self.chunked, self.keep_alive, self.expect_continue, self.upgrade, self.head_size,
        )  # fmt: skip
        other.trailers = self.trailers
        other.route = self.route
        other.forwarded = self.forwarded
        other.origin = origin
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RequestReceived):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # it holds a list

    def __repr__(self) -> str:
        return f"RequestReceived({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"
