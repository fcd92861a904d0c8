"""One WSGI response: ``start_response``, ``write`` and the iterable, on the way to an ``Exchange`` (PEP 3333).

Promises: the head goes out with the first piece of body that is not empty, and each piece before the next is asked
for; a list or tuple, whose pieces are all here, goes out as one body with its Content-Length; a ``FileWrapper`` goes
through ``begin_file``; once Content-Length is reached the response is complete, whatever the iterable still does.
Refuses: what PEP 3333 forbids (Misuse, or an exception out of ``start_response`` and ``write``, where its author sees
it). The reason phrase may be any text: clients ignore it (RFC 9112 4), and the registered one is sent.

Belongs to one request, one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ..exchange import ClientGone
from ..http.grammar import CONTROL
from .file_wrapper import FileWrapper

if TYPE_CHECKING:
    from ..blocking import BlockingExchange

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_LENGTH: Final = "content-length"
# The status as nearly every application writes it; what is not here is looked at more closely.
_CODES: Final = {f"{status.value} {status.phrase}": status.value for status in HTTPStatus if status >= 200}


class Misuse(Exception):
    """The application broke PEP 3333; the text goes on from "the application"."""


class Response:
    """See the module."""

    __slots__ = ("_exchange", "_fields", "_left", "_status")

    def __init__(self, exchange: BlockingExchange) -> None:
        self._exchange = exchange
        self._status = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._left = -1  # bytes of body that content-length still announces; -1 without one

    # -- what the application calls --------------------------------------------------------------------------------

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Keep status and headers for the first piece of body; give ``write``.

        Raises TypeError or ValueError for what cannot be sent, RuntimeError for a second call without ``exc_info``,
        and the error in ``exc_info`` when the head is sent already.
        """
        if exc_info:
            try:
                if self._exchange.status and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no ring of frames
        elif self._status:
            raise RuntimeError("start_response was called a second time, without exc_info (PEP 3333)")
        code = _CODES.get(status) or _status_code(status)
        self._left = -1
        fields = []
        try:
            for name, value in headers:
                if len(name) == 14 and name.lower() == _LENGTH and value.isdecimal():
                    self._left = int(value)
                fields.append((name.encode("latin-1"), value.encode("latin-1")))
        except TypeError, ValueError, AttributeError:
            raise _bad_header(headers) from None
        self._status, self._fields = code, fields
        return self.write

    def write(self, data: bytes, /) -> None:
        """Send ``data`` now, for applications that were not written as an iterable. Raises ClientGone."""
        if not isinstance(data, bytes):
            raise TypeError(f"write() was given {type(data).__name__}, it must be bytes")
        if data and not self._send(data):
            raise RuntimeError("write() was called after the response was complete")

    # -- what the server calls -------------------------------------------------------------------------------------

    def send(self, result: Any) -> None:
        """Send what the application returned, to its end. Raises Misuse, ClientGone, ResponseError."""
        kind = type(result)
        if kind is list or kind is tuple:
            self._finish(_joined(result))
        elif kind is FileWrapper and self._send_file(result):
            pass
        elif kind is str or kind is bytes or kind is bytearray or result is None:
            raise Misuse(f"returned {kind.__name__}; WSGI wants an iterable of bytes, such as [b'...']")
        elif not hasattr(kind, "__iter__") and not hasattr(kind, "__getitem__"):
            raise Misuse(f"returned {kind.__name__}, which is not iterable; WSGI wants an iterable of bytes")
        else:
            self._send_each(result)

    def _send_each(self, pieces: Iterable[bytes]) -> None:
        silent = self._exchange.request.method == "HEAD"
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise _not_bytes(piece)
            if not piece:
                continue
            if not self._send(piece):
                raise Misuse("gave more body than its content-length announced; the rest was not sent")
            if silent:
                break  # the head is out, and nothing more will be
        self._finish(b"")

    def _send(self, piece: bytes) -> bool:
        """Send one piece of body, before the next is known. False if the response was complete before."""
        exchange = self._exchange
        left = self._left
        if exchange.done:
            self._check_client()
            return False
        if left >= 0:
            left -= len(piece)
            self._left = left
        more = left != 0
        if exchange.status:
            exchange.go_on(piece, more)
        else:
            exchange.begin(self._started(), self._fields, piece, more)
        if more:
            exchange.wait_for_room()
        return True

    def _finish(self, rest: bytes) -> None:
        """The last piece, which may be empty."""
        exchange = self._exchange
        if exchange.done:
            self._check_client()
            if rest:
                raise Misuse("gave more body than its content-length announced; the rest was not sent")
        elif exchange.status:
            exchange.go_on(rest, False)
        else:
            exchange.begin(self._started(), self._fields, rest, False)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Let the kernel send it. False if that cannot be done, and the wrapper has to be read."""
        exchange = self._exchange
        if exchange.status or exchange.done:
            return False
        status = self._started()
        file = wrapper.as_range(self._left)
        if file is None:
            return False
        exchange.begin_file(status, self._fields, file)
        return True

    def _check_client(self) -> None:
        """The exchange is done. Raises ClientGone unless it was this response that completed it."""
        if self._exchange.gone or not self._exchange.complete:
            raise ClientGone(0, "the client has left, or was cut off")

    def _started(self) -> int:
        if not self._status:
            raise Misuse("never called start_response (PEP 3333)")
        return self._status


def _joined(pieces: list[Any] | tuple[Any, ...]) -> bytes:
    for piece in pieces:
        if not isinstance(piece, bytes):
            raise _not_bytes(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _not_bytes(piece: object) -> Misuse:
    remedy = "encode it" if isinstance(piece, str) else "the iterable's items are the body"
    return Misuse(f"gave {type(piece).__name__} as a piece of body, it must be bytes: {remedy}")


def _status_code(status: object) -> int:
    """The number in "200 OK". Raises TypeError, ValueError."""
    if not isinstance(status, str):
        raise TypeError(f"the status is {type(status).__name__}, it must be a str such as '200 OK'")
    try:
        text = status.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the status {status!r} has characters beyond latin-1") from None
    if len(text.translate(None, CONTROL)) != len(text):
        raise ValueError(f"the status {status!r} has a control byte")
    digits = status[:3]
    if len(digits) < 3 or not (digits.isascii() and digits.isdigit()) or status[3:4] not in ("", " "):
        raise ValueError(f"the status {status!r} is not three digits, a space and a reason such as '200 OK'")
    code = int(digits)
    if code < 200:
        raise ValueError(f"the status {status!r} does not end a request (RFC 9110 15.2)")
    return code


def _bad_header(headers: Any) -> Exception:
    """Which header cannot be sent, and why."""
    if not isinstance(headers, (list, tuple)):
        return TypeError(
            f"the response headers are {type(headers).__name__}, they must be a list of (name, value)"
        )
    for pair in headers:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            return TypeError(f"the response header {pair!r} is not a pair of name and value")
        name, value = pair
        for part in (name, value):
            if not isinstance(part, str):
                return TypeError(f"the response header {name!r} has a {type(part).__name__}, it must be str")
            try:
                part.encode("latin-1")
            except UnicodeEncodeError:
                return ValueError(
                    f"the response header {name!r} has characters beyond latin-1: {part!r}; encode them (RFC 8187)"
                )
    return TypeError(f"the response headers {headers!r} cannot be sent")
