"""The same stream as h11 reads it, held against what was accepted.

Promises: Finding where h11 reads another request, another body or another end. It is only asked about what was
accepted, as it takes more than we do on purpose. Any thread may call it.
"""

from __future__ import annotations

from typing import Final

import h11

from serverd.server.http import RequestReceived

from .reading import ANY_SIZE, Finding, Reading

# h11 holds trailers to its rules for headers; we drop them whatever they are called, if they are field lines at all.
_H11_ON_TRAILERS: Final = frozenset(
    (
        "Only Transfer-Encoding: chunked is supported",
        "multiple Transfer-Encoding headers",
        "bad Content-Length",
        "conflicting Content-Length headers",
    )
)


def compare_with_h11(data: bytes, whole: Reading, *, fresh: bool = True) -> None:
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
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=ANY_SIZE)
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
