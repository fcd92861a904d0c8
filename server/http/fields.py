"""Response fields as bytes: checked, so that an application can neither split a message nor forge a field.

Promises: what comes out is complete field lines of token names and values without control bytes (RFC 9110 5.1, 5.5);
for all else ResponseError names the field and the fault. Refuses: trailers that a recipient would have needed before
the content (RFC 9110 6.5.1). Pure functions of their arguments: any thread may call them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from .framing import MAX_LENGTH_DIGITS
from .grammar import CONTROL, is_token
from .tables import FIELDS, PLAIN, STATUS_LINES

Pairs = Iterable[tuple[bytes, bytes]]

# RFC 9110 6.5.1: what describes framing, routing, authentication, request modifiers, response controls or the content's
# format would come too late at the end. The list of names is the one of RFC 7230 4.1.2, with the fields about the
# connection and both sides of authentication.
_NO_TRAILER: Final = frozenset(
    (
        b"age", b"authorization", b"cache-control", b"connection", b"content-encoding", b"content-length",
        b"content-range", b"content-type", b"cookie", b"date", b"expect", b"expires", b"host", b"keep-alive",
        b"location", b"max-forwards", b"pragma", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
        b"range", b"retry-after", b"set-cookie", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"vary",
        b"warning", b"www-authenticate",
    )
)  # fmt: skip


class ResponseError(Exception):
    """The application asked for what may not go onto the wire; the message is one line that says what and why."""


def status_line(status: int) -> bytes:
    """The first line of a response; there is always a reason phrase. Raises ResponseError."""
    try:
        return STATUS_LINES[status]
    except KeyError, TypeError:
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ResponseError(f"status {status!r} is not a number from 100 to 999") from None
    return b"HTTP/1.1 %d Unknown\r\n" % status


def final_status_line(status: int) -> bytes:
    """The same, for a response that ends a request: after 100 or 101 the client would wait for another, or for another
    protocol. Raises ResponseError."""
    line = status_line(status)
    if status < 200:
        raise ResponseError(f"status {status} does not end a request (RFC 9110 15.2)")
    return line


def encode_trailers(fields: Pairs) -> bytes:
    """Field lines for the end of a chunked body (RFC 9112 7.1.2). Raises ResponseError."""
    lines: list[bytes] = []
    for name, value in as_bytes_pairs(fields, "trailer"):
        if not is_token(name):
            raise ResponseError(f"the response trailer {name!r} has a name that is not a token")
        if name.lower() in _NO_TRAILER:
            raise ResponseError(
                f"the response trailer {name!r} means nothing after the body (RFC 9110 6.5.1): send it as a header"
            )
        if len(value.translate(None, CONTROL)) != len(value):
            raise ResponseError(f"the response trailer {name!r} has a control byte in its value")
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def add_fields(parts: list[bytes], headers: Pairs) -> list[tuple[int, bytes]]:
    """Append four pieces to ``parts`` for each field that is handed on; give meaning and value of the others."""
    if type(headers) is not list:
        headers = _as_list(headers)
    special: list[tuple[int, bytes]] = []
    known = FIELDS
    try:
        for name, value in headers:
            meaning = known.get(name)
            if meaning is None:
                meaning = _rare_meaning(name)
            if meaning:
                special.append((meaning, value))
            else:
                parts += (name, b": ", value, b"\r\n")
    except TypeError, ValueError, AttributeError:  # not pairs, or names that are not bytes
        del parts[1:]
        return add_fields(parts, as_bytes_pairs(headers))
    return special


def _as_list(headers: Iterable[Any], kind: str = "header") -> list[Any]:
    try:
        return list(headers)
    except TypeError:
        raise ResponseError(f"the response {kind}s are {headers!r}, not a list of pairs") from None


def _rare_meaning(name: bytes) -> int:
    if not is_token(name):
        raise ResponseError(f"the response header {name!r} has a name that is not a token")
    return FIELDS.get(name.lower(), PLAIN)


def checked(parts: list[bytes]) -> bytes:
    """Status line, fields of four pieces, and CRLF, joined; every control byte must be of one of these line ends."""
    try:
        block = b"".join(parts)
    except TypeError:
        raise _bad_value(parts) from None
    if len(block) - len(block.translate(None, CONTROL)) != (len(parts) + 6) // 4 * 2:
        raise _bad_value(parts)
    return block


def _bad_value(parts: list[bytes]) -> ResponseError:
    """Which value is not bytes, or has a control byte."""
    for name, value in zip(parts[1:-1:4], parts[3::4], strict=True):
        data = as_bytes(value, f"the value of response header {name!r}")
        if len(data.translate(None, CONTROL)) != len(data):
            return ResponseError(f"the response header {name!r} has a control byte in its value")
    raise AssertionError("a status line or a name got past its check")


def content_length(value: bytes, before: int) -> int:
    """The number that Content-Length announces; ``before``: of an earlier field, or -1. Raises ResponseError."""
    if before >= 0:
        raise ResponseError("the response has more than one content-length")
    number = value
    if type(value) is not bytes or not value.isdigit():
        number = as_bytes(value, "the value of response header b'content-length'").strip(b" \t")
    if not number.isdigit() or len(number) > MAX_LENGTH_DIGITS:
        raise ResponseError(f"content-length {number!r} is not a plain decimal number")
    return int(number)


def is_chunked(value: bytes) -> bool:
    """Applications may ask for chunks, which is the server's to do; another coding would have to be undone.

    Raises ResponseError.
    """
    if options_of(value) != [b"chunked"]:
        raise ResponseError("transfer-encoding other than chunked is not for an application to set")
    return True


def options_of(value: bytes) -> list[bytes]:
    """The members of a list such as Connection's, in lower case. Raises ResponseError."""
    options = as_bytes(value, "the value of a response header").lower().split(b",")
    return [option for option in map(bytes.strip, options) if option]


def as_bytes_pairs(headers: Iterable[Any], kind: str = "header") -> list[tuple[bytes, bytes]]:
    """The slow and helpful way: what is bytes-like becomes bytes, for all else ResponseError names the field."""
    pairs: list[tuple[bytes, bytes]] = []
    for pair in _as_list(headers, kind):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ResponseError(f"response {kind} {len(pairs)} is not a pair of name and value: {pair!r}")
        name = as_bytes(pair[0], f"the name of response {kind} {pair[0]!r}")
        pairs.append((name, as_bytes(pair[1], f"the value of response {kind} {name!r}")))
    return pairs


def as_bytes(value: object, what: str) -> bytes:
    """What is bytes-like, as bytes. what: how the error calls it. Raises ResponseError."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ResponseError(f"{what} is {type(value).__name__}, it must be bytes")
