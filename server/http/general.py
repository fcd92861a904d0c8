"""The careful way in: takes every head that RFC 9112 allows, and finds the status and the words for every other one.

Promises: the first fault in the order of the bytes decides, so that the verdict is the same however TCP cut the
request; a fault that an incomplete head already shows is reported at once; h11 reads a head only after it passed the
checks here, and what h11 refuses as well is refused. Refuses (h11 alone takes several of these): bare LF, obs-fold,
control bytes, white space before a colon, Content-Length lists, Transfer-Encoding with Content-Length or in HTTP/1.0,
CONNECT, versions other than 1.0 and 1.1. It raises nothing but ProtocolError. Pure functions; any thread may call them.
"""

from __future__ import annotations

import re
from typing import Final

import h11

from .events import Headers, HeadLimits, ProtocolError, RequestReceived
from .framing import body_framing, intentions, takes_trailers
from .grammar import CONTROL, MAX_METHOD, bad_target, is_token, valid_host
from .names import OF_PROXIES

_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_HALF_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r[^\n]")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE | re.DOTALL)


def parse_head(buffer: bytes, limits: HeadLimits) -> RequestReceived | None:
    """The head at the beginning of ``buffer``, None if it is not complete. Raises ProtocolError."""
    start = 2 if buffer.startswith(b"\r\n") else 0  # RFC 9112 2.2: one empty line before a request is skipped
    if buffer in (b"", b"\r", b"\r\n"):
        return None
    if not is_token(buffer[start : start + 1]):
        raise _no_request(buffer[start])
    end = buffer.find(b"\r\n\r\n", start)
    size = end + 4 if end >= 0 else 0
    _raise_first_fault(buffer, start, size, limits)
    if not size:
        return None
    lines = buffer[start:end].split(b"\r\n")
    method, target, version = _request_line(lines[0])
    headers = [_field(line) for line in lines[1:]]
    authority, path, query = _target(method, target)
    _check_host(headers, version)
    length, chunked = body_framing(
        version, _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    )
    expect = [value.lower() for value in _values(headers, b"expect")]
    if version == "1.1" and any(value != b"100-continue" for value in expect):
        raise ProtocolError(417, "Expect has something other than 100-continue")
    headers = _h11_headers(buffer[start:size], method, target, version)
    if authority:
        headers = _with_host(headers, authority)
    request = RequestReceived(
        method, target, path, query, version, headers, length, chunked, True, bool(expect), False, size
    )
    intentions(request, _values(headers, b"connection"), bool(_values(headers, b"upgrade")))
    request.trailers = takes_trailers(version, _values(headers, b"te"))
    request.forwarded = any(name in OF_PROXIES for name, _ in headers)
    return request


def adds_nothing(buffer: bytes, data: bytes, limits: HeadLimits) -> bool:
    """Whether ``parse_head`` would still say None if ``data`` came behind ``buffer``, of which it has said so.

    True only where that is cheap to see: no line ends in ``data``, and nothing becomes too long. A client that sends a
    head byte by byte would else have all of it looked through for each of its 32,768 bytes.
    """
    size = len(buffer) + len(data)
    return (
        size < limits.head
        and len(buffer) > 2  # an empty line before the request, and its first byte, have been seen
        and b"\r" not in data
        and b"\n" not in data
        and buffer[-1] != 0x0D
        and (size <= limits.line or buffer.find(b"\n", 2) > 0)
    )


def _no_request(first: int) -> ProtocolError:
    if first == 0x16:  # the record type of a TLS handshake
        return ProtocolError(400, "this looks like TLS; this port speaks plain HTTP")
    return ProtocolError(400, "the request does not begin with a method")


def _raise_first_fault(buffer: bytes, start: int, size: int, limits: HeadLimits) -> None:
    """Raise the fault that shows first when the head is read byte by byte, if there is one.

    Each fault is noted with the number of bytes that have to be there to see it. size: of the head, 0 if incomplete.
    """
    head = buffer[start:size] if size else buffer[start:]
    faults: list[tuple[int, int, str]] = []
    line, line_end, _ = head.partition(b"\r\n")
    shown = len(line) if line_end else len(line.removesuffix(b"\r"))
    if shown > limits.line:
        faults.append((limits.line + 1, 414, "the request line is longer than limits.line"))
    elif line_end:
        try:
            _target(*_request_line(line)[:2])
        except ProtocolError as fault:
            faults.append((len(line) + 2, fault.status, fault.message))
    if half := _half_line_end(head):
        message = "a line ends in LF without CR" if half[0] == b"\n" else "CR without LF"
        faults.append((half.end(), 400, message))
    if (size or len(buffer) + 1) > limits.head:  # what is incomplete has at least one byte to come
        faults.append((limits.head - start, 431, "the request head is larger than limits.head"))
    if head.count(b"\r\n") - 1 - (size > 0) > limits.headers:
        faults.append((_line_end(head, limits.headers + 2), 431, "more header fields than limits.headers"))
    if faults:
        _, status, message = min(faults, key=lambda fault: fault[0])
        raise ProtocolError(status, message)


def _half_line_end(head: bytes) -> re.Match[bytes] | None:
    """The first LF without CR, or CR without LF. RFC 9112 2.2 allows to take LF alone; others read it differently.

    Counting first is 50 times quicker than searching, which a client that sends a large head in bits would make us do
    again and again.
    """
    pairs = head.count(b"\r\n")
    if head.count(b"\n") == pairs and head.count(b"\r") - head.endswith(b"\r") == pairs:
        return None
    return _HALF_LINE_END.search(head)


def _line_end(head: bytes, number: int) -> int:
    """How many bytes the first ``number`` lines take, CRLF included."""
    at = 0
    for _ in range(number):
        at = head.find(b"\r\n", at) + 2
    return at


def _request_line(line: bytes) -> tuple[str, bytes, str]:
    """Method, target and version (RFC 9112 3). Raises ProtocolError 400, 501 or 505."""
    if len(line.translate(None, CONTROL)) != len(line):
        raise ProtocolError(400, "control byte in the request line")
    words = line.split(b" ")
    if len(words) != 3:
        raise ProtocolError(400, "the request line is not: method, one space, target, one space, version")
    verb, target, protocol = words
    if not is_token(verb):
        raise ProtocolError(400, "the method is not a token")
    if not _VERSION.fullmatch(protocol):
        raise ProtocolError(400, "the version is malformed; HTTP/1.1 or HTTP/1.0 was expected")
    if protocol not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ProtocolError(505, "this server speaks HTTP/1.1 and HTTP/1.0")
    if verb == b"CONNECT" or len(verb) > MAX_METHOD:
        raise ProtocolError(501, "this server does not implement the method")
    return verb.decode("ascii"), target, protocol[5:].decode("ascii")


def _target(method: str, target: bytes) -> tuple[bytes, bytes, bytes]:
    """Authority (b"" if the target has none), path and query (RFC 9112 3.2). Raises ProtocolError 400."""
    if target == b"*" and method == "OPTIONS":
        return b"", b"*", b""
    authority = b""
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
    elif absolute := _ABSOLUTE.fullmatch(target):
        authority, path, query = absolute[1], absolute[2] or b"/", absolute[3] or b""
        if not valid_host(authority):
            raise ProtocolError(400, "the authority of the request target is not a valid host and port")
    else:
        raise ProtocolError(400, "the request target is neither a path nor an http URI")
    if reason := bad_target(path, query):
        raise ProtocolError(400, reason)
    return authority, path, query


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Lower-case name and value of a field line (RFC 9112 5, RFC 9110 5.5). Raises ProtocolError 400."""
    if line.startswith((b" ", b"\t")):
        raise ProtocolError(400, "a header line begins with white space (obsolete line folding)")
    if len(line.translate(None, CONTROL)) != len(line):
        raise ProtocolError(400, "control byte in a header field")
    name, colon, value = line.partition(b":")
    if not colon:
        raise ProtocolError(400, "a header line has no colon")
    if not name:
        raise ProtocolError(400, "a header field has no name")
    if name.endswith((b" ", b"\t")):
        raise ProtocolError(400, "white space between a header's name and its colon")
    if not is_token(name):
        raise ProtocolError(400, "a header's name has a character that is not allowed")
    return name.lower(), value.strip(b" \t")


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _check_host(headers: Headers, version: str) -> None:
    """RFC 9112 3.2: exactly one valid Host in HTTP/1.1, at most one in HTTP/1.0. Raises ProtocolError 400."""
    hosts = _values(headers, b"host")
    if len(hosts) > 1:
        raise ProtocolError(400, "more than one Host")
    if not hosts and version == "1.1":
        raise ProtocolError(400, "HTTP/1.1 without Host")
    if hosts and not valid_host(hosts[0]):
        raise ProtocolError(400, "Host is not a valid host and port")


def _with_host(headers: Headers, authority: bytes) -> Headers:
    """The authority of an absolute-form target replaces what Host says (RFC 9112 3.2.2)."""
    if not _values(headers, b"host"):
        return [(b"host", authority), *headers]
    return [(name, authority if name == b"host" else value) for name, value in headers]


def _h11_headers(head: bytes, method: str, target: bytes, version: str) -> Headers:
    """The headers as h11 reads them. Raises ProtocolError if h11 refuses the head, or reads another request line."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as refusal:
        raise ProtocolError(refusal.error_status_hint, "the request head is not valid HTTP/1.1") from None
    if not isinstance(event, h11.Request):
        raise ProtocolError(400, "the request head is not valid HTTP/1.1")
    if (event.method, event.target, event.http_version) != (method.encode(), target, version.encode()):
        raise ProtocolError(400, "the request line can be read in two ways")
    return [(bytes(name), bytes(value)) for name, value in event.headers]
