"""A stream of requests, read as a server end reads it: whole, by both parsers at once, or in pieces, as the workers do.

Promises: what comes out says all that must not depend on how the bytes came; Finding where the parsers contradict each
other, or refuse in a way that is none. Any thread may call it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final

import h11

from serverd.server import http
from serverd.server.http import HeadLimits, ProtocolError, RequestReceived, general, parse_request, strict
from serverd.server.http.framing import ChunkedDecoder, SizedDecoder

_all_of: Final = attrgetter(*RequestReceived.__slots__)
STATUSES: Final = frozenset((400, 413, 414, 417, 431, 501, 505))
# More than any input: h11's own limit is not what is tested.
ANY_SIZE: Final = 1 << 20


class Finding(Exception):
    """A promise that these bytes break; the message says which, and shows both sides."""


class Reading:
    """What a server end made of a stream.

    requests: (head, body, the bytes of the stream up to its end) of each complete one. open: the head whose body is
    not complete, and the part of it that came, or None where it was refused. error: (status, message), or None.
    rest: what is kept of an incomplete head.
    """

    __slots__ = ("error", "first", "heard", "open", "requests", "rest", "strict")

    def __init__(self) -> None:
        self.requests: list[tuple[RequestReceived, bytes, int]] = []
        self.open: tuple[RequestReceived, bytes | None] | None = None
        self.error: tuple[int, str] | None = None
        self.rest = b""
        self.first = 0  # the size of the first head
        self.heard: list[tuple[h11.Connection, object]] = []  # what ``listen`` heard of each head
        self.strict: list[bool] = []  # of each head, whether the strict parser took it

    def told(self) -> tuple[object, ...]:
        """All that must not depend on how the bytes came."""
        requests = [(_all_of(request), body, end) for request, body, end in self.requests]
        return requests, self.open and (_all_of(self.open[0]), self.open[1]), self.error, self.rest


class _Heard(threading.local):
    """The last h11 connection of this thread that gave out an event, and the event."""

    last: tuple[h11.Connection, object] | None = None


_heard: Final = _Heard()


class _Listener(h11.Connection):
    """h11 as the general parser uses it; its first event is kept, and it can go on with the body."""

    def __init__(self, our_role: Any, max_incomplete_event_size: int = 0) -> None:
        super().__init__(our_role, ANY_SIZE)

    def next_event(self) -> Any:
        event = super().next_event()
        _heard.last = self, event
        return event


def listen() -> None:
    """Let this process's general parser hand over its h11, which has read the head by itself, to be held against what
    the parsers made of it: that spares a second h11, which took a quarter of the time. Of 16 inputs one is read by a
    new h11 all the same. Only for processes that do nothing but fuzz: it changes the parser's module.
    """
    names = ("SERVER", "Request", "RemoteProtocolError")
    setattr(general, "h11", SimpleNamespace(Connection=_Listener, **{n: getattr(h11, n) for n in names}))  # noqa: B010


def read_whole(data: bytes, limits: HeadLimits) -> Reading:
    """The stream in one piece, each head by both parsers, which must agree. Raises Finding."""
    reading = Reading()
    rest, at = data, 0
    try:
        while True:
            request = _by_both(rest, limits, reading)
            if request is None:
                reading.rest = rest
                break
            reading.open = (request, None)
            reading.first = reading.first or request.head_size
            decoder = ChunkedDecoder() if request.chunked else SizedDecoder(request.content_length)
            rest = rest[request.head_size :]
            body = b""
            if not decoder.complete:
                body = decoder.feed(rest) if rest else b""
                rest = decoder.rest
            if not decoder.complete:
                reading.open = (request, body)
                break
            at = len(data) - len(rest)
            reading.requests.append((request, body, at))
            reading.open = None
    except ProtocolError as error:
        reading.error = checked(error)
    return reading


def _by_both(buffer: bytes, limits: HeadLimits, reading: Reading) -> RequestReceived | None:
    """The head that both parsers read. Raises ProtocolError if it is refused, Finding if only one of them does."""
    quick = strict.parse_head(buffer, limits)
    try:
        careful = general.parse_head(buffer, limits)
    except ProtocolError as error:
        if isinstance(quick, RequestReceived):
            raise Finding(f"strict took {quick}, general refused it: {error}") from None
        raise
    if isinstance(quick, RequestReceived):
        if careful is None or _all_of(quick) != _all_of(careful):
            raise Finding(f"strict read {quick}, general {careful}")
    elif quick is None and careful is not None:
        raise Finding(f"strict found no end of the head, general {careful}")
    if careful is not None:
        if _heard.last is not None:
            reading.heard.append(_heard.last)
        reading.strict.append(isinstance(quick, RequestReceived))
    return careful


def checked(error: ProtocolError) -> tuple[int, str]:
    """Status and message of a refusal. Raises Finding."""
    status, message = error.status, error.message
    if status not in STATUSES or not message.isascii() or not message.isprintable() or not message:
        raise Finding(f"refused with {status} and {message!r}")
    return status, message


def read(pieces: Iterable[bytes], limits: HeadLimits, *, force_general: bool) -> Reading:
    """The stream as it comes, through the door that the workers use. Raises Finding."""
    reading = Reading()
    buffer, at = b"", 0
    decoder: SizedDecoder | ChunkedDecoder | None = None
    request: RequestReceived | None = None
    body = b""
    try:
        for piece in pieces:
            before, buffer = buffer, buffer + piece
            if before and decoder is None and http.adds_nothing(before, piece, limits):
                continue
            while buffer:
                if decoder is None:
                    request = parse_request(buffer, limits, force_general=force_general)
                    if request is None:
                        break
                    reading.open = (request, None)
                    decoder = ChunkedDecoder() if request.chunked else SizedDecoder(request.content_length)
                    buffer, at = buffer[request.head_size :], at + request.head_size
                    body = b""
                if not decoder.complete and buffer:
                    body += decoder.feed(buffer)
                    at += len(buffer) - len(decoder.rest)
                    buffer = decoder.rest
                if not decoder.complete:
                    break
                assert request is not None
                reading.requests.append((request, body, at))
                reading.open = decoder = None
    except ProtocolError as error:
        reading.error = checked(error)
        return reading
    if decoder is not None and request is not None:
        reading.open = (request, body)
    reading.rest = buffer
    return reading
