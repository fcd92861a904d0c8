"""Responses as bytes: the head, checked so that an application can neither split nor forge one, and its framing.

Promises: the client always knows where a response ends (RFC 9112 6.3), whatever the application did: its Content-Length
is honoured to the byte, else one is added, else the body goes in chunks, or to a client of HTTP/1.0 until the
connection closes. What cannot be framed raises ResponseError before a wrong byte goes out. Every status line has a
reason phrase, because load tools count responses without one as failed. Refuses: names that are not tokens; control
bytes in values (RFC 9110 5.5); more body than Content-Length announced; less, at the end; hop-by-hop fields of the
application (RFC 9110 7.6.1), which belong to the connection and are dropped. A ResponseFramer belongs to one exchange,
one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from .framing import MAX_LENGTH_DIGITS
from .grammar import CONTROL, is_token
from .tables import CODING, CONNECTION, DATE, FIELDS, LENGTH, PLAIN, STATUS_LINES

Pairs = Iterable[tuple[bytes, bytes]]

_WITHOUT_BODY: Final = (204, 205, 304)


class ResponseError(Exception):
    """The application asked for what may not go onto the wire; the message is one line that says what and why."""


def encode_head(status: int, headers: Pairs, extra: bytes = b"") -> bytes:
    """Status line, ``headers``, ``extra`` (complete, trusted field lines) and the empty line; frames nothing.

    headers: (name, value) of bytes, or bytearray or memoryview. Raises ResponseError.
    """
    parts = [_status_line(status)]
    for name, value in _as_bytes_pairs(headers):
        if not is_token(name):
            raise ResponseError(f"the response header {name!r} has a name that is not a token")
        parts += (name, b": ", value, b"\r\n")
    return _checked([*parts, b"\r\n"])[:-2] + extra + b"\r\n"


def error_response(status: int, message: str, *, date: bytes | None = None) -> bytes:
    """A complete plain-text response that ends the connection. date: value of the Date field, None without a clock.

    ``message`` becomes one line of ASCII; other characters are escaped.
    """
    body = " ".join(message.split()).encode("ascii", "backslashreplace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if date:
        headers.append((b"date", date))
    return encode_head(status, headers) + body


class _Mode(Enum):
    """How the bytes of a body go out."""

    NEW = "start() was not called"
    SIZED = "as they are, counted against content-length"
    CHUNKED = "in chunks"
    CLOSE = "as they are, until the connection closes"
    NONE = "not at all: HEAD, 204, 205, 304, 1xx"
    DONE = "the response is complete"
    BROKEN = "the body did not have the length announced"

    __hash__ = object.__hash__


class ResponseFramer:
    """Turns one response of the application into bytes: ``start`` once, then ``body`` until ``complete``.

    method, version: of the request. keep_alive: whether client and server would go on after this response.
    """

    __slots__ = ("_left", "_mode", "_modern", "_silent", "keep_alive")

    def __init__(self, method: str, version: str, keep_alive: bool) -> None:
        self._silent = method == "HEAD"
        self._modern = version == "1.1"
        self._mode = _Mode.NEW
        self._left = 0  # bytes of body that content-length still allows
        self.keep_alive = keep_alive  # False once nothing may follow on this connection

    @property
    def complete(self) -> bool:
        """Whether the last byte of the response was given out."""
        return self._mode is _Mode.DONE

    @property
    def chunked(self) -> bool:
        """Whether the body goes out in chunks; asked between ``start`` and the end of the body."""
        return self._mode is _Mode.CHUNKED

    def start(
        self, status: int, headers: Pairs, date: bytes | None, first_body: bytes, more_body: bool
    ) -> bytes:
        """The head and the first piece of body, for one write. date: value of the Date field if the headers have none.

        Raises ResponseError, and then nothing has happened: another response may be started in its place.
        """
        if self._mode is not _Mode.NEW:
            raise ResponseError("the response was started twice")
        if type(first_body) is not bytes:
            first_body = _as_bytes(first_body, "the response body")
        parts = [_status_line(status)]
        special = _add_fields(parts, headers)
        length, coded, keep_alive = -1, False, self.keep_alive
        options: list[bytes] = []
        for meaning, value in special:
            if meaning == LENGTH:
                length = _length(value, length)
            elif meaning == CODING:
                coded = _is_chunked(value)
            elif meaning == CONNECTION:
                options += _options(value)
            elif meaning == DATE:
                date = value
        mode, length, first_body = self._frame(parts, status, length, coded, first_body, more_body)
        keep_alive = keep_alive and mode is not _Mode.CLOSE and status >= 200 and b"close" not in options
        if keep_alive is not self._modern or options:
            self._add_connection(parts, keep_alive, options)
        if date:
            parts += (b"date", b": ", date, b"\r\n")
        parts.append(b"\r\n")
        head = _checked(parts)
        self.keep_alive = keep_alive
        self._mode = mode if more_body else _Mode.DONE
        self._left = length
        return head + first_body if first_body else head

    def body(self, data: bytes, more_body: bool) -> bytes:
        """The bytes to send for one more piece of body; b"" if there are none. more_body: it is not the last piece.

        Raises ResponseError; the response cannot be completed then, and the connection has to be closed.
        """
        if type(data) is not bytes:
            data = _as_bytes(data, "the response body")
        sent = _BODY[self._mode](self, data, more_body)
        if not more_body:
            self._mode = _Mode.DONE
        return sent

    def _frame(
        self, parts: list[bytes], status: int, length: int, coded: bool, body: bytes, more_body: bool
    ) -> tuple[_Mode, int, bytes]:
        """Decide the framing (RFC 9112 6.3), add its field to ``parts``; give mode, length left, and bytes of body.

        length: what the application announced, or -1. coded: it asked for chunks.
        """
        if self._silent or status in _WITHOUT_BODY or status < 200:
            self._frame_nothing(parts, status, length, len(body), more_body)
            return _Mode.NONE, 0, b""
        size = len(body)
        if length < 0 and not more_body and not (coded and self._modern):
            length = size
        if length >= 0:
            if size > length or (size < length and not more_body):
                raise ResponseError(f"the body has {size} bytes where content-length announced {length}")
            parts += (b"content-length", b": ", b"%d" % length, b"\r\n")
            return _Mode.SIZED, length - size, body
        if not self._modern:
            return _Mode.CLOSE, 0, body
        parts += (b"transfer-encoding", b": ", b"chunked", b"\r\n")
        return _Mode.CHUNKED, 0, self._chunk(body, more_body)

    def _frame_nothing(
        self, parts: list[bytes], status: int, length: int, size: int, more_body: bool
    ) -> None:
        """Add what may be said about a body that is not sent. size: of the piece that came with ``start``."""
        # RFC 9110 8.6: no Content-Length here, and RFC 9112 6.1: no Transfer-Encoding.
        if status == 204 or status < 200:
            return
        # RFC 9110 15.3.6: this is how 205 says that there is no content.
        if status == 205:
            length = 0
        # HEAD announces what GET would have; of an empty body that is not known (RFC 9110 8.6).
        elif length < 0 and status != 304 and size and not more_body:
            length = size
        if length >= 0:
            parts += (b"content-length", b": ", b"%d" % length, b"\r\n")
        elif self._modern and more_body and status != 304:
            parts += (b"transfer-encoding", b": ", b"chunked", b"\r\n")

    def _add_connection(self, parts: list[bytes], keep_alive: bool, options: list[bytes]) -> None:
        """Add the Connection field if it says something (RFC 9112 9.3). options: what the application put there."""
        options = [option for option in options if option not in (b"close", b"keep-alive")]
        if self._modern and not keep_alive:
            options.append(b"close")
        elif keep_alive and not self._modern:
            options.append(b"keep-alive")
        if options:
            parts += (b"connection", b": ", b", ".join(options), b"\r\n")

    # One function for each mode: the bytes on the wire for a piece of body.

    def _sized(self, data: bytes, more_body: bool) -> bytes:
        left = self._left - len(data)
        if left < 0 or (left and not more_body):
            self._mode = _Mode.BROKEN
            self.keep_alive = False
            comparison = "longer" if left < 0 else "shorter"
            raise ResponseError(f"the body is {abs(left)} bytes {comparison} than content-length announced")
        self._left = left
        return data

    def _chunk(self, data: bytes, more_body: bool) -> bytes:
        if not data:
            return b"" if more_body else b"0\r\n\r\n"
        return b"%x\r\n%b\r\n%b" % (len(data), data, b"" if more_body else b"0\r\n\r\n")

    def _plain(self, data: bytes, more_body: bool) -> bytes:
        return data

    def _nothing(self, data: bytes, more_body: bool) -> bytes:
        return b""

    def _refuse(self, data: bytes, more_body: bool) -> bytes:
        raise ResponseError(f"no body may be sent now: {self._mode.value}")


_BODY: Final[dict[_Mode, Callable[[ResponseFramer, bytes, bool], bytes]]] = {
    _Mode.NEW: ResponseFramer._refuse,
    _Mode.SIZED: ResponseFramer._sized,
    _Mode.CHUNKED: ResponseFramer._chunk,
    _Mode.CLOSE: ResponseFramer._plain,
    _Mode.NONE: ResponseFramer._nothing,
    _Mode.DONE: ResponseFramer._refuse,
    _Mode.BROKEN: ResponseFramer._refuse,
}


def _status_line(status: int) -> bytes:
    try:
        return STATUS_LINES[status]
    except KeyError, TypeError:
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ResponseError(f"status {status!r} is not a number from 100 to 999") from None
    return b"HTTP/1.1 %d Unknown\r\n" % status


def _add_fields(parts: list[bytes], headers: Pairs) -> list[tuple[int, bytes]]:
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
        return _add_fields(parts, _as_bytes_pairs(headers))
    return special


def _as_list(headers: Iterable[Any]) -> list[Any]:
    try:
        return list(headers)
    except TypeError:
        raise ResponseError(f"the response headers are {headers!r}, not a list of pairs") from None


def _rare_meaning(name: bytes) -> int:
    if not is_token(name):
        raise ResponseError(f"the response header {name!r} has a name that is not a token")
    return FIELDS.get(name.lower(), PLAIN)


def _checked(parts: list[bytes]) -> bytes:
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
        data = _as_bytes(value, f"the value of response header {name!r}")
        if len(data.translate(None, CONTROL)) != len(data):
            return ResponseError(f"the response header {name!r} has a control byte in its value")
    raise AssertionError("a status line or a name got past its check")


def _length(value: bytes, before: int) -> int:
    if before >= 0:
        raise ResponseError("the response has more than one content-length")
    number = value
    if type(value) is not bytes or not value.isdigit():
        number = _as_bytes(value, "the value of response header b'content-length'").strip(b" \t")
    if not number.isdigit() or len(number) > MAX_LENGTH_DIGITS:
        raise ResponseError(f"content-length {number!r} is not a plain decimal number")
    return int(number)


def _is_chunked(value: bytes) -> bool:
    """Applications may ask for chunks, which is the server's to do; another coding would have to be undone."""
    if _options(value) != [b"chunked"]:
        raise ResponseError("transfer-encoding other than chunked is not for an application to set")
    return True


def _options(value: bytes) -> list[bytes]:
    options = _as_bytes(value, "the value of a response header").lower().split(b",")
    return [option for option in map(bytes.strip, options) if option]


def _as_bytes_pairs(headers: Iterable[Any]) -> list[tuple[bytes, bytes]]:
    """The slow and helpful way: what is bytes-like becomes bytes, for all else ResponseError names the header."""
    pairs: list[tuple[bytes, bytes]] = []
    for pair in _as_list(headers):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ResponseError(f"response header {len(pairs)} is not a pair of name and value: {pair!r}")
        name = _as_bytes(pair[0], f"the name of response header {pair[0]!r}")
        pairs.append((name, _as_bytes(pair[1], f"the value of response header {name!r}")))
    return pairs


def _as_bytes(value: object, what: str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ResponseError(f"{what} is {type(value).__name__}, it must be bytes")
