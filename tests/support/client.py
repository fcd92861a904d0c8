"""A raw HTTP/1.1 client for tests: it sends exactly the bytes it is told, and reads responses strictly.

Kept independent of the code under test, and of any client library that would tidy up what is sent or received.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE = 20.0


@dataclass
class Response:
    """One response as it came."""

    status: int
    reason: str
    version: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of the only field of this name (lower-case), None if there is none."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


class RawClient:
    """A connection to a server under test. Every wait ends after ``PATIENCE`` seconds with an error.

    source: the client's own address, for instance one of 127.0.0.0/8.
    """

    def __init__(self, address: tuple[str, int] | str, *, receive_buffer: int = 0, source: str = "") -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(address)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, target: str = "/", method: str = "GET", headers: str = "") -> Response:
        """Send one request and read its response."""
        self.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())
        return self.response(method)

    def post(self, target: str, body: bytes, headers: str = "") -> Response:
        """Send one request with a body and read its response."""
        head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.send(head.encode() + body)
        return self.response("POST")

    def response(self, method: str = "GET") -> Response:
        """Read one final or interim response. Raises EOFError when the server closed before it was complete."""
        response = self.head()
        coding = response.header("transfer-encoding")
        length = response.header("content-length")
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            return response
        if coding is not None:
            assert coding == "chunked", coding
            assert length is None, "Content-Length beside Transfer-Encoding"
            response.body = self._chunks()
        elif length is not None:
            response.body = self.read(int(length))
        else:
            response.body = self.rest()
        return response

    def head(self) -> Response:
        """Read a status line and its fields."""
        lines = []
        while line := self.line():
            lines.append(line)
        version, status, reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        assert reason, f"no reason phrase: {lines[0]!r}"
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])
        ]
        return Response(int(status), reason, version, headers)

    def line(self) -> str:
        """One line, which must end in CRLF."""
        while b"\r\n" not in self._data:
            self._more()
        line, _, self._data = self._data.partition(b"\r\n")
        return line.decode("latin-1")

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        if len(self._data) < size:
            data = bytearray(self._data)  # grows in place: a body may have 50 MB
            while len(data) < size:
                self._data = b""
                self._more()
                data += self._data
            self._data = bytes(data)
        found, self._data = self._data[:size], self._data[size:]
        return found

    def until(self, end: bytes) -> bytes:
        """All up to ``end``, and ``end``."""
        while end not in self._data:
            self._more()
        before, found, self._data = self._data.partition(end)
        return before + found

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """All until the server closes."""
        try:
            while True:
                self._more()
        except EOFError:
            data, self._data = self._data, b""
            return data

    def closed(self) -> bool:
        """Wait until the server closes; True if it sent nothing more before."""
        return self.rest() == b""

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.line(), 16):
            body += self.read(size)
            assert self.line() == "", "no CRLF after a chunk"
        while self.line():
            pass
        return body

    def _more(self) -> None:
        data = self.sock.recv(262144)
        if not data:
            raise EOFError(f"the server closed; unread: {self._data[:200]!r}")
        self._data += data
