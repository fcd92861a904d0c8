"""What must hold for every stream of requests; see docs/fuzzing.md for the list in words.

Promises: ``examine`` raises Finding, and nothing else, for bytes that break a promise of serverd.server.http; what it
returns says which way the input went, so that a run can show its mix. h11 is asked only about what was accepted: it
takes more than we do on purpose, and it costs most of the time. Any thread may call it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final

import h11

from serverd.server import http
from serverd.server.http import (
    HeadLimits,
    ProtocolError,
    RequestReceived,
    general,
    parse_request,
    strict,
)
from serverd.server.http.framing import ChunkedDecoder, SizedDecoder

from .mutate import Rnd
from .requests import Case

_all_of: Final = attrgetter(*RequestReceived.__slots__)
STATUSES: Final = frozenset((400, 413, 414, 417, 431, 501, 505))
# RFC 9112 2.2, 3, 5 and RFC 9110 5.1, 5.5, 5.6.2 in our strict reading, written down once more and by other means: what
# h11 takes too (control bytes in values) two wrong parsers could agree about.
_HEAD: Final = re.compile(
    rb"(?:\r\n)?[!#-'*+\-.0-9A-Z^-z|~]{1,32} (?:/|(?i:https?)://[^/?]|\*)[!$-;=?-~]* HTTP/1\.[01]\r\n"
    rb"(?:[!#-'*+\-.0-9A-Z^-z|~]++:[\t -~\x80-\xff]*+\r\n)*+\r\n"
)
# h11 holds trailers to its rules for headers; we drop them whatever they are called, if they are field lines at all.
_H11_ON_TRAILERS: Final = frozenset(
    (
        "Only Transfer-Encoding: chunked is supported",
        "multiple Transfer-Encoding headers",
        "bad Content-Length",
        "conflicting Content-Length headers",
    )
)
# More than any input: h11's own limit is not what is tested.
_ANY_SIZE: Final = 1 << 20
_BYTE_BY_BYTE: Final = 300


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
        super().__init__(our_role, _ANY_SIZE)

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


def examine(case: Case, rnd: Rnd) -> list[str]:
    """Hold one stream to everything. What became of it: of its first head, then of the fault behind that, if any."""
    data, limits = case
    whole = _read_whole(data, limits)
    _cut_it(case, whole, rnd)
    if whole.requests or whole.open:
        _look_at_heads(data, whole)
        _compare_with_h11(data, whole, fresh=rnd() < 1 / 16)
    return _way(whole)


def examine_every_cut(case: Case) -> list[str]:
    """The same for each single place at which the bytes can be cut: for replays, and for short inputs."""
    data, limits = case
    whole = _read_whole(data, limits)
    pieces = [[data[:at], data[at:]] for at in range(1, len(data))]
    for cut in ([data[at : at + 1] for at in range(len(data))], *pieces):
        for force in (False, True):
            told = read(cut, limits, force_general=force).told()
            if told != whole.told():
                raise Finding(
                    f"cut into {[len(piece) for piece in cut]} it is {told}, whole it is {whole.told()}"
                )
    if whole.requests or whole.open:
        _look_at_heads(data, whole)
        _compare_with_h11(data, whole)
    return _way(whole)


def _way(whole: Reading) -> list[str]:
    if whole.strict:
        first = "accepted by strict" if whole.strict[0] else "accepted by general only"
    else:
        first = f"refused with {whole.error[0]}" if whole.error else "incomplete"
    way = [first]
    for taken in whole.strict[1:]:
        way.append("behind it: by strict" if taken else "behind it: by general only")
    way += ["complete request"] * len(whole.requests)
    if whole.error:
        way.append(f"{whole.error[0]} {whole.error[1]}")
    return way


def _read_whole(data: bytes, limits: HeadLimits) -> Reading:
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
        reading.error = _checked(error)
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


def _checked(error: ProtocolError) -> tuple[int, str]:
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
        reading.error = _checked(error)
        return reading
    if decoder is not None and request is not None:
        reading.open = (request, body)
    reading.rest = buffer
    return reading


def _cut_it(case: Case, whole: Reading, rnd: Rnd) -> None:
    """Read the bytes in pieces: the outcome must be the same. Raises Finding."""
    data, limits = case
    size = len(data)
    if size < 2:
        return
    kind = rnd()
    if kind < 0.001 and size <= _BYTE_BY_BYTE:
        _hold_to(whole, [data[at : at + 1] for at in range(size)], limits, force=rnd() < 0.5)
    elif kind < 0.1:
        places = sorted({1 + int(rnd() * (size - 1)) for _ in range(1 + int(rnd() * 7))})
        pieces = [data[start:end] for start, end in zip((0, *places), (*places, size), strict=True)]
        _hold_to(whole, pieces, limits, force=rnd() < 0.5)
    else:
        at = 1 + int(rnd() * (size - 1))
        if kind < 0.6:  # beside a line end, where most of what can go wrong is
            at = min(max(data.find(b"\r", at), 0) + int(rnd() * 4), size - 1) or at
        if at < whole.first or not whole.strict:
            _hold_beginning_to(whole, data[:at], limits)
        else:
            _hold_to(whole, [data[:at], data[at:]], limits, force=False)


def _hold_to(whole: Reading, pieces: list[bytes], limits: HeadLimits, *, force: bool) -> None:
    told = read(pieces, limits, force_general=force).told()
    if told != whole.told():
        sizes = [len(piece) for piece in pieces]
        raise Finding(f"cut into {sizes} ({force=}) it is {told}, whole it is {whole.told()}")


def _hold_beginning_to(whole: Reading, beginning: bytes, limits: HeadLimits) -> None:
    """The same for a cut in the first head, at half the price: when the rest comes, the parser is called with the same
    bytes as it was for the whole. Raises Finding."""
    error = _refusal(whole, beginning, limits)
    if error is None:
        return
    if whole.strict or error != whole.error:
        raise Finding(f"the first {len(beginning)} bytes are {error}, the whole is {whole.told()}")
    last = 1 + len(beginning) % 7
    before = beginning[:-last]
    if (
        before
        and http.adds_nothing(before, beginning[-last:], limits)
        and _refusal(whole, before, limits) != error
    ):
        raise Finding(f"the last {last} of the first {len(beginning)} bytes add something: {error}")


def _refusal(whole: Reading, beginning: bytes, limits: HeadLimits) -> tuple[int, str] | None:
    try:
        if parse_request(beginning, limits) is not None:
            raise Finding(f"the first {len(beginning)} bytes are a head, the whole is not: {whole.told()}")
    except ProtocolError as refusal:
        return _checked(refusal)
    return None


def _look_at_heads(data: bytes, whole: Reading) -> None:
    """Each accepted head obeys the grammar and the rules about its fields, whoever took it. Raises Finding."""
    at = 0
    last = [(*whole.open, 0)] if whole.open else []
    for request, _, end in [*whole.requests, *last]:
        if not _HEAD.fullmatch(data, at, at + request.head_size):
            raise Finding(f"accepted, although it is no head: {data[at : at + request.head_size]!r}")
        at = end
        names = [name for name, _ in request.headers]
        framed = names.count(b"content-length") + names.count(b"transfer-encoding")
        if framed > 1 or names.count(b"host") not in ((1,) if request.version == "1.1" else (0, 1)):
            raise Finding(f"accepted, although fields are there too often or not at all: {names}")


def _compare_with_h11(data: bytes, whole: Reading, *, fresh: bool = True) -> None:
    """h11 alone, whatever our checks made of it, reads the same requests and the same ends. Raises Finding."""
    at = 0
    heard = iter([] if fresh else whole.heard)
    try:
        for request, body, end in whole.requests:
            connection = _h11_head(data, at, request, next(heard, None))
            payload, complete, refusal = _h11_body(connection)
            if payload == body and request.chunked and refusal in _H11_ON_TRAILERS:
                at = end
                continue
            if not complete or payload != body:
                raise Finding(
                    f"the body is {body!r}, h11 reads {payload!r}, to its end: {complete} {refusal}"
                )
            behind = len(connection.trailing_data[0])
            if behind != len(data) - end:
                raise Finding(f"{len(data) - end} bytes are behind the request, for h11 {behind}")
            _compare_intentions(request, connection)
            at = end
        if whole.open is not None:
            request, part = whole.open
            connection = _h11_head(data, at, request, next(heard, None))
            if part is not None:
                payload, complete, refusal = _h11_body(connection)
                if complete or refusal or payload != part:
                    raise Finding(f"the body begins {part!r}, h11 reads {payload!r}; {complete} {refusal}")
    except h11.RemoteProtocolError as error:
        raise Finding(f"h11 refuses what was accepted: {error}; {whole.told()}") from None


def _h11_head(
    data: bytes, at: int, request: RequestReceived, heard: tuple[h11.Connection, object] | None
) -> h11.Connection:
    """h11 after the head at ``at``, which must be what ``request`` says, with all bytes behind it. Raises Finding,
    RemoteProtocolError."""
    event: object
    if heard is None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_ANY_SIZE)
        # RFC 9112 2.2: the one empty line that we skip; h11 does not.
        connection.receive_data(data[at + 2 * data.startswith(b"\r\n", at) :])
        event = connection.next_event()
    else:
        connection, event = heard
        if behind := data[at + request.head_size :]:
            connection.receive_data(behind)
    if not isinstance(event, h11.Request):
        raise Finding(f"{request} is {event} for h11")
    headers = [(bytes(name), bytes(value)) for name, value in event.headers]
    ours = request.headers
    if not request.target.startswith(b"/") and request.target != b"*":
        # RFC 9112 3.2.2: the authority of the target stands in place of Host.
        host = next(value for name, value in ours if name == b"host")
        headers = [(name, host if name == b"host" else value) for name, value in headers]
        if len(ours) == len(headers) + 1:
            headers.insert(0, (b"host", host))
    same = (
        request.method.encode() == event.method
        and request.target == event.target
        and request.version.encode() == event.http_version
        and ours == headers
    )
    if not same:
        raise Finding(f"{request} is {event} for h11")
    lengths = [int(value) for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if ([request.content_length] if request.content_length else []) != [n for n in lengths if n]:
        raise Finding(f"{request} has the lengths {lengths} for h11")
    if request.chunked != bool(codings):
        raise Finding(f"{request} has the codings {codings} for h11")
    waits = connection.they_are_waiting_for_100_continue
    has_body = request.content_length or request.chunked
    if request.version == "1.1" and has_body and request.expect_continue != waits:
        raise Finding(f"{request}: h11 thinks otherwise of 100-continue")
    return connection


def _h11_body(connection: h11.Connection) -> tuple[bytes, bool, str]:
    """What h11 reads of the body, whether that is all of it, and why it refuses to go on, if it does."""
    payload = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                payload += event.data
            else:
                return payload, isinstance(event, h11.EndOfMessage), ""
    except h11.RemoteProtocolError as refusal:
        return payload, False, str(refusal)


def _compare_intentions(request: RequestReceived, connection: h11.Connection) -> None:
    """Whether the connection goes on: in HTTP/1.1 as h11 has it, which never does for 1.0. Raises Finding."""
    state = connection.their_state
    known = request.version == "1.1" and state in (h11.DONE, h11.MUST_CLOSE)
    if known and request.keep_alive != (state is h11.DONE):
        raise Finding(f"{request}: h11 is in the state {state}")
