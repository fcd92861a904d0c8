"""Where a request's body begins and ends: the decision (RFC 9112 6.3), and the decoders that carry it out.

Promises: a body has one length that every recipient on the way agrees on, or the request is refused; a decoder gives
the payload as it comes, and afterwards the first bytes that are not part of the message. Refuses: Content-Length
together with Transfer-Encoding, any list of lengths, every coding but ``chunked``, a bare LF, and trailers that are
not field lines; trailers are checked and dropped, they never reach the application (RFC 9110 6.5.1). How the bytes
were cut into pieces does not change a verdict. A decoder belongs to the thread that has the connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final

from .events import ProtocolError, RequestReceived
from .grammar import CONTROL, HEXDIG, is_token

# 10**18 bytes is more than any body and less than any integer overflow (RFC 9112 6.3, RFC 9110 8.6).
MAX_LENGTH_DIGITS: Final = 18
MAX_CHUNK_DIGITS: Final = 15
MAX_CHUNK_LINE: Final = 1024
MAX_EXTENSIONS: Final = 16 * 1024
MAX_TRAILER: Final = 8 * 1024

# RFC 9112 7.1.1: chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] ), but nothing between the
# size and the first semicolon: that is where parsers differ (h11 and llhttp refuse it). Possessive, so it is linear.
_EXTENSION: Final = (
    rb";[ \t]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb"(?:[ \t]*+=[ \t]*+(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
    rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"))?+'
)
_EXTENSIONS: Final = re.compile(rb"%b(?:[ \t]*+%b)*+" % (_EXTENSION, _EXTENSION))


def body_framing(version: str, lengths: list[bytes], codings: list[bytes]) -> tuple[int, bool]:
    """(content length, chunked) from all values of Content-Length and of Transfer-Encoding (RFC 9112 6.1 to 6.3).

    Raises ProtocolError: 400 for what is ambiguous or malformed, 501 for an unknown coding, 413 for a length of more
    than 18 digits.
    """
    if codings:
        if lengths:
            raise ProtocolError(400, "Content-Length and Transfer-Encoding in one request")
        if version == "1.0":
            raise ProtocolError(400, "Transfer-Encoding in an HTTP/1.0 request")
        _check_codings(codings)
        return 0, True
    if not lengths:
        return 0, False
    if len(lengths) > 1:
        raise ProtocolError(400, "more than one Content-Length")
    if not lengths[0].isdigit():
        raise ProtocolError(400, "Content-Length is not a plain decimal number")
    if len(lengths[0]) > MAX_LENGTH_DIGITS:
        raise ProtocolError(413, "Content-Length is larger than this server can count")
    return int(lengths[0]), False


def _check_codings(codings: list[bytes]) -> None:
    members = [member.strip(b" \t").lower() for member in b",".join(codings).split(b",")]
    if b"" in members:
        raise ProtocolError(400, "Transfer-Encoding has an empty list member")
    if members[-1] != b"chunked":
        raise ProtocolError(400, "Transfer-Encoding of a request must end in chunked")
    if members.count(b"chunked") > 1:
        raise ProtocolError(400, "Transfer-Encoding applies chunked more than once")
    if len(members) > 1:
        raise ProtocolError(501, "Transfer-Encoding other than chunked is not implemented")


def intentions(request: RequestReceived, options: list[bytes], upgrade: bool) -> None:
    """Set keep_alive, upgrade and expect_continue, which need the version and the body's framing to be known.

    options: the values of all Connection fields. RFC 9112 9.3: "close" wins over "keep-alive"; what is not an option
    we know is ignored. RFC 9110 7.8: Upgrade counts only with its connection option, and never in HTTP/1.0. RFC 9110
    10.1.1: nor does an expectation count in HTTP/1.0, and without a body nobody waits to send one.
    """
    modern = request.version == "1.1"
    if options:
        names = {name.strip(b" \t") for name in b",".join(options).lower().split(b",")}
        request.keep_alive = b"close" not in names and (modern or b"keep-alive" in names)
        request.upgrade = upgrade and modern and b"upgrade" in names
    else:
        request.keep_alive = modern
    if request.expect_continue:
        request.expect_continue = modern and (request.chunked or request.content_length > 0)


def takes_trailers(version: str, values: list[bytes]) -> bool:
    """Whether a client with these values of TE would read trailers (RFC 9110 10.1.4); none of HTTP/1.0 does."""
    if version == "1.0" or not values:
        return False
    return b"trailers" in [member.strip(b" \t") for member in b",".join(values).lower().split(b",")]


class SizedDecoder:
    """A body of ``length`` bytes (Content-Length). ``rest`` holds what came after it, once it is ``complete``."""

    __slots__ = ("_left", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.rest = b""

    @property
    def complete(self) -> bool:
        """Whether the whole body was fed."""
        return not self._left

    def feed(self, data: bytes) -> bytes:
        """The part of ``data`` that belongs to the body. Raises RuntimeError if the body was complete before."""
        left = self._left
        if not left:
            raise RuntimeError("body bytes fed to a decoder whose message is complete")
        size = len(data)
        if size <= left:
            self._left = left - size
            return data
        self._left = 0
        self.rest = data[left:]
        return data[:left]


class _State(Enum):
    SIZE = "size"  # a chunk's first line: size, perhaps extensions
    DATA = "data"  # inside a chunk
    END = "end"  # the CRLF after a chunk's data
    TRAILER = "trailer"  # field lines after the last chunk, to the empty line
    DONE = "done"

    __hash__ = object.__hash__


class ChunkedDecoder:
    """A body in chunks (RFC 9112 7.1). ``rest`` holds what came after the message, once it is ``complete``.

    max_line: bytes of a chunk-size line with its extensions; longer is 400.
    max_trailer: bytes of the trailer section; more is 431.
    """

    __slots__ = ("_extensions", "_held", "_left", "_max_line", "_max_trailer", "_state", "_trailer", "rest")

    def __init__(self, max_line: int = MAX_CHUNK_LINE, max_trailer: int = MAX_TRAILER) -> None:
        self._max_line = max_line
        self._max_trailer = max_trailer
        self._state = _State.SIZE
        self._left = 0  # bytes of the current chunk that did not come yet
        self._held = b""  # the beginning of a line; never longer than the line may be
        self._extensions = 0  # bytes of chunk extensions so far
        self._trailer = 0  # bytes of the trailer section so far
        self.rest = b""

    @property
    def complete(self) -> bool:
        """Whether the empty line that ends the message was fed."""
        return self._state is _State.DONE

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``, b"" if there is none. Raises ProtocolError when the body is malformed (400) or its
        trailer too large (431), RuntimeError if the message was complete before."""
        if self._held:
            data = self._held + data
            self._held = b""
        payload: list[bytes] = []
        at = 0
        while at >= 0:
            at = _STEPS[self._state](self, data, at, payload)
        return payload[0] if len(payload) == 1 else b"".join(payload)

    # Each step takes `data` from `at`, and gives the place to go on from, or -1 when it needs more bytes.

    def _size(self, data: bytes, at: int, payload: list[bytes]) -> int:
        end = data.find(b"\r\n", at, at + self._max_line + 2)
        if end < 0:
            return self._hold(data[at:], self._max_line, 400, "chunk-size line is too long")
        line = data[at:end]
        if line.translate(None, HEXDIG):
            line = self._without_extensions(line)
        if not 0 < len(line) <= MAX_CHUNK_DIGITS:
            raise ProtocolError(400, "chunk size is missing or has too many digits")
        self._left = int(line, 16)
        self._state = _State.DATA if self._left else _State.TRAILER
        return end + 2

    def _without_extensions(self, line: bytes) -> bytes:
        digits = len(line) - len(line.lstrip(HEXDIG))
        self._extensions += len(line) - digits
        if self._extensions > MAX_EXTENSIONS:
            raise ProtocolError(400, "too many chunk extensions")
        if not _EXTENSIONS.fullmatch(line, digits):
            raise _bad_line(line, "malformed chunk size or chunk extension")
        return line[:digits]

    def _data(self, data: bytes, at: int, payload: list[bytes]) -> int:
        end = at + self._left
        if end > len(data):
            payload.append(data[at:])
            self._left = end - len(data)
            return -1
        payload.append(data[at:end])
        self._state = _State.END
        return end

    def _end(self, data: bytes, at: int, payload: list[bytes]) -> int:
        line_end = data[at : at + 2]
        if line_end == b"\r\n":
            self._state = _State.SIZE
            return at + 2
        if line_end not in (b"", b"\r"):
            raise ProtocolError(400, "chunk data is not followed by CRLF")
        self._held = line_end
        return -1

    def _trailer_line(self, data: bytes, at: int, payload: list[bytes]) -> int:
        room = self._max_trailer - self._trailer
        end = data.find(b"\r\n", at, at + room)
        if end < 0:
            return self._hold(data[at:], room - 2, 431, "the trailer section is too large")
        self._trailer += end + 2 - at
        if end == at:
            self._state = _State.DONE
            self.rest = data[end + 2 :]
            return -1
        _check_field(data[at:end])
        return end + 2

    def _hold(self, line: bytes, limit: int, status: int, too_long: str) -> int:
        """Keep the beginning of a line that may become at most ``limit`` bytes long, and wait for more."""
        if line.find(b"\n", 0, max(0, limit + 1)) >= 0:  # less than 0 would count from the end
            raise _bad_line(line, "")
        if len(line) > limit + line.endswith(b"\r"):
            raise ProtocolError(status, too_long)
        self._held = line
        return -1

    def _done(self, data: bytes, at: int, payload: list[bytes]) -> int:
        raise RuntimeError("body bytes fed to a decoder whose message is complete")


_STEPS: Final[dict[_State, Callable[[ChunkedDecoder, bytes, int, list[bytes]], int]]] = {
    _State.SIZE: ChunkedDecoder._size,
    _State.DATA: ChunkedDecoder._data,
    _State.END: ChunkedDecoder._end,
    _State.TRAILER: ChunkedDecoder._trailer_line,
    _State.DONE: ChunkedDecoder._done,
}


def _check_field(line: bytes) -> None:
    """Raise ProtocolError unless this is ``name: value`` (RFC 9112 5); trailers are held to the rules of headers."""
    name, colon, value = line.partition(b":")
    if not colon or not is_token(name) or len(value.translate(None, CONTROL)) != len(value):
        raise _bad_line(line, "malformed field line in the trailer section")


def _bad_line(line: bytes, message: str) -> ProtocolError:
    """The refusal of a line; a bare LF in it is named first, as it is when the line comes in pieces."""
    if line.find(b"\n") >= 0:
        message = "a line of a chunked body ends in LF without CR"
    return ProtocolError(400, message)
