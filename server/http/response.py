"""Responses as bytes: the head, checked so that an application can neither split nor forge one, and its framing.

Promises: the client always knows where a response ends (RFC 9112 6.3), whatever the application did: its Content-Length
is honoured to the byte, else one is added, else the body goes in chunks, or to a client of HTTP/1.0 until the
connection closes. What cannot be framed raises ResponseError before a wrong byte goes out. Every status line has a
reason phrase, because load tools count responses without one as failed. Refuses: names that are not tokens; control
bytes in values (RFC 9110 5.5); more body than Content-Length announced; less, at the end; hop-by-hop fields of the
application (RFC 9110 7.6.1), which belong to the connection and are dropped. A body that is not in memory (a file) is
framed by its size. A ResponseFramer belongs to one exchange, one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from .fields import (
    Pairs,
    ResponseError,
    add_fields,
    as_bytes,
    as_bytes_pairs,
    checked,
    content_length,
    encode_trailers,
    final_status_line,
    is_chunked,
    options_of,
    status_line,
)
from .grammar import is_token
from .tables import CODING, CONNECTION, DATE, LENGTH, TRAILER

__all__ = ["Around", "ResponseError", "ResponseFramer", "encode_head", "error_response"]

_WITHOUT_BODY: Final = (204, 205, 304)
# The server's to say; and what every recipient needs to find the end of the response, so that no proxy takes it out
# (RFC 9110 7.6.1: an intermediary removes the fields that Connection names).
_NO_OPTIONS: Final = frozenset(
    {b"close", b"keep-alive", b"content-length", b"transfer-encoding", b"connection"}
)
# What goes around a piece of body that is not in memory: the bytes before it, whether it is sent, the bytes behind it.
Around = tuple[bytes, bool, bytes]


def encode_head(status: int, headers: Pairs, extra: bytes = b"") -> bytes:
    """Status line, ``headers``, ``extra`` (complete, trusted field lines) and the empty line; frames nothing.

    headers: (name, value) of bytes, or bytearray or memoryview. Raises ResponseError.
    """
    parts = [status_line(status)]
    for name, value in as_bytes_pairs(headers):
        if not is_token(name):
            raise ResponseError(f"the response header {name!r} has a name that is not a token")
        parts += (name, b": ", value, b"\r\n")
    return checked([*parts, b"\r\n"])[:-2] + extra + b"\r\n"


def error_response(status: int, message: str, *, date: bytes | None = None, silent: bool = False) -> bytes:
    """A complete plain-text response that ends the connection. date: value of the Date field, None without a clock.

    ``message`` becomes one line of ASCII; other characters are escaped. silent: the answer to HEAD, its head alone.
    """
    body = " ".join(message.split()).encode("ascii", "backslashreplace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if date:
        headers.append((b"date", date))
    return encode_head(status, headers) + (b"" if silent else body)


class _Mode(Enum):
    """How the bytes of a body go out."""

    NEW = "start() was not called"
    SIZED = "as they are, counted against content-length"
    CHUNKED = "in chunks"
    CLOSE = "as they are, until the connection closes"
    NONE = "not at all: HEAD, 204, 205, 304"
    DONE = "the response is complete"
    BROKEN = "the body did not have the length announced"

    __hash__ = object.__hash__


class ResponseFramer:
    """Turns one response of the application into bytes: ``start`` once, then ``body`` until ``complete``.

    ``start_around`` and ``around`` are the same for pieces that are not in memory. When trailers will follow, every
    piece of body has ``more_body``, and ``trailers`` completes the response.
    method, version: of the request. keep_alive: whether client and server would go on after this response.
    """

    __slots__ = ("_left", "_mode", "_modern", "_silent", "endless", "keep_alive")

    def __init__(self, method: str, version: str, keep_alive: bool) -> None:
        self._silent = method == "HEAD"
        self._modern = version == "1.1"
        self._mode = _Mode.NEW
        self._left = -1  # bytes of body that content-length still allows; -1: it was not given
        self.keep_alive = keep_alive  # False once nothing may follow on this connection
        # The body goes out in chunks now, and nobody has said how long it will be.
        self.endless = False

    @property
    def complete(self) -> bool:
        """Whether the last byte of the response was given out."""
        return self._mode is _Mode.DONE

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection will end the body; asked between ``start`` and the end of the body."""
        return self._mode is _Mode.CLOSE

    @property
    def chunked(self) -> bool:
        """Whether the body goes out in chunks; asked between ``start`` and the end of the body."""
        return self._mode is _Mode.CHUNKED

    def start(
        self,
        status: int,
        headers: Pairs,
        date: bytes | None,
        first_body: bytes,
        more_body: bool,
        trailers: bool = False,
    ) -> bytes:
        """The head and the first piece of body, for one write. date: value of the Date field if the headers have none.

        trailers: they will come, and need a body in chunks (in HTTP/1.0 there are none, and they go nowhere).
        Raises ResponseError, and then nothing has happened: another response may be started in its place.
        """
        if type(first_body) is not bytes:
            first_body = as_bytes(first_body, "the response body")
        head = self._open(status, headers, date, len(first_body), more_body, trailers)
        mode = self._mode
        if mode is not _Mode.SIZED:
            if mode is _Mode.CHUNKED:
                first_body = _as_chunk(first_body, more_body)
            elif mode is _Mode.NONE:
                first_body = b""
        if not more_body:
            self._end()
        return head + first_body if first_body else head

    def start_around(
        self,
        status: int,
        headers: Pairs,
        date: bytes | None,
        size: int,
        more_body: bool,
        trailers: bool = False,
    ) -> Around:
        """As ``start``, with a first piece of ``size`` bytes that the caller puts in its place. Raises as ``start``."""
        head = self._open(status, headers, date, size, more_body, trailers)
        before, wanted, after = _around(self._mode, size, more_body)
        if not more_body:
            self._end()
        return head + before, wanted, after

    def body(self, data: bytes, more_body: bool) -> bytes:
        """The bytes to send for one more piece of body; b"" if there are none. more_body: it is not the last piece.

        Raises ResponseError; the response cannot be completed then, and the connection has to be closed.
        """
        if type(data) is not bytes:
            data = as_bytes(data, "the response body")
        sent = _BODY[self._mode](self, data, more_body)
        if not more_body:
            self._end()
        return sent

    def around(self, size: int, more_body: bool) -> Around:
        """As ``body``, for a piece of ``size`` bytes that the caller puts in its place. Raises as ``body``."""
        mode = self._mode
        _BODY[mode](self, b"", True)  # raises if the response is not in its body
        self._count(size, more_body)
        if not more_body:
            self._end()
        return _around(mode, size, more_body)

    def trailers(self, fields: Pairs) -> bytes:
        """The bytes to send behind the last piece of body, with its trailers; b"" if there is no place for them.

        Raises ResponseError; the response cannot be completed then, and the connection has to be closed.
        """
        lines = encode_trailers(fields)
        mode = self._mode
        _BODY[mode](self, b"", True)  # raises if the response is not in its body
        self._count(0, False)
        self._end()
        return b"0\r\n" + lines + b"\r\n" if mode is _Mode.CHUNKED else b""

    def _end(self) -> None:
        self._mode = _Mode.DONE
        self.endless = False

    def _open(
        self, status: int, headers: Pairs, date: bytes | None, size: int, more_body: bool, trailers: bool
    ) -> bytes:
        """The head of a response whose first piece of body has ``size`` bytes; sets the mode for that piece."""
        if self._mode is not _Mode.NEW:
            raise ResponseError("the response was started twice")
        parts = [final_status_line(status)]
        special = add_fields(parts, headers)
        length, coded, keep_alive = -1, trailers, self.keep_alive
        options: list[bytes] = []
        for meaning, value in special:
            if meaning == LENGTH:
                length = content_length(value, length)
            elif meaning == CODING:
                coded = is_chunked(value)
            elif meaning == CONNECTION:
                options += options_of(value)
            elif meaning == DATE:
                date = value
            elif meaning == TRAILER and trailers:
                parts += (b"trailer", b": ", value, b"\r\n")
        mode, length = self._frame(parts, status, length, coded, size, more_body, trailers)
        keep_alive = keep_alive and mode is not _Mode.CLOSE and b"close" not in options
        if keep_alive is not self._modern or options:
            self._add_connection(parts, keep_alive, options)
        if date:
            parts += (b"date", b": ", date, b"\r\n")
        parts.append(b"\r\n")
        head = checked(parts)
        self.keep_alive = keep_alive
        self._mode = mode
        self._left = length
        self.endless = mode is _Mode.CHUNKED and length < 0
        return head

    def _frame(
        self,
        parts: list[bytes],
        status: int,
        length: int,
        coded: bool,
        size: int,
        more_body: bool,
        trailers: bool,
    ) -> tuple[_Mode, int]:
        """Decide the framing (RFC 9112 6.3), add its field to ``parts``; give mode, and length left behind ``size``.

        length: what the application announced, or -1. coded: it asked for chunks.
        """
        if self._silent or status in _WITHOUT_BODY:
            self._frame_nothing(parts, status, length, size, more_body)
            return _Mode.NONE, -1
        if length < 0 and not more_body and not (coded and self._modern):
            length = size
        if length >= 0:
            if size > length or (size < length and not more_body):
                raise ResponseError(f"the body has {size} bytes where content-length announced {length}")
            length -= size
            if not (trailers and self._modern):
                parts += (b"content-length", b": ", b"%d" % (length + size), b"\r\n")
                return _Mode.SIZED, length
        elif not self._modern:
            return _Mode.CLOSE, -1
        # RFC 9112 6.2: with chunks there is no Content-Length; one that came with trailers still counts for the body.
        parts += (b"transfer-encoding", b": ", b"chunked", b"\r\n")
        return _Mode.CHUNKED, length

    def _frame_nothing(
        self, parts: list[bytes], status: int, length: int, size: int, more_body: bool
    ) -> None:
        """Add what may be said about a body that is not sent. size: of the piece that came with ``start``."""
        # RFC 9110 8.6: no Content-Length here, and RFC 9112 6.1: no Transfer-Encoding.
        if status == 204:
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
        options = [option for option in options if option not in _NO_OPTIONS]
        if self._modern and not keep_alive:
            options.append(b"close")
        elif keep_alive and not self._modern:
            options.append(b"keep-alive")
        if options:
            parts += (b"connection", b": ", b", ".join(options), b"\r\n")

    def _count(self, size: int, more_body: bool) -> None:
        """Hold the body against its announced length. Raises ResponseError."""
        if self._left < 0:
            return
        left = self._left - size
        if left < 0 or (left and not more_body):
            self._mode = _Mode.BROKEN
            self.keep_alive = False
            comparison = "longer" if left < 0 else "shorter"
            raise ResponseError(f"the body is {abs(left)} bytes {comparison} than content-length announced")
        self._left = left

    # One function for each mode: the bytes on the wire for a piece of body.

    def _sized(self, data: bytes, more_body: bool) -> bytes:
        self._count(len(data), more_body)
        return data

    def _chunk(self, data: bytes, more_body: bool) -> bytes:
        self._count(len(data), more_body)
        return _as_chunk(data, more_body)

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


def _as_chunk(data: bytes, more_body: bool) -> bytes:
    """RFC 9112 7.1. An empty chunk would be the end."""
    if not data:
        return b"" if more_body else b"0\r\n\r\n"
    return b"%x\r\n%b\r\n%b" % (len(data), data, b"" if more_body else b"0\r\n\r\n")


def _around(mode: _Mode, size: int, more_body: bool) -> Around:
    """What goes around a piece of ``size`` bytes."""
    if mode is not _Mode.CHUNKED:
        return b"", mode is not _Mode.NONE, b""
    end = b"" if more_body else b"0\r\n\r\n"
    return (b"%x\r\n" % size, True, b"\r\n" + end) if size else (end, False, b"")
