"""A raw WebSocket client for tests: it sends exactly the frames it is told, right or wrong, and reads strictly.

Kept independent of the code under test and of the ``websockets`` library, which both sides would otherwise share.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from .client import RawClient, Response

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
KEY = base64.b64encode(bytes(range(16))).decode()


def frame(
    opcode: int, payload: bytes = b"", *, flags: int = FIN, mask: bytes | None = b"\x37\xfa\x21\x3d"
) -> bytes:
    """One frame of a client (RFC 6455 5.2). mask: None leaves it out, which no client may do."""
    size = len(payload)
    masked = 0x80 if mask is not None else 0
    if size < 126:
        head = bytes((flags | opcode, masked | size))
    elif size < 65536:
        head = bytes((flags | opcode, masked | 126)) + size.to_bytes(2)
    else:
        head = bytes((flags | opcode, masked | 127)) + size.to_bytes(8)
    if mask is None:
        return head + payload
    number = int.from_bytes(mask * (size // 4 + 1)) >> (32 - 8 * (size % 4))
    return head + mask + (int.from_bytes(payload) ^ number).to_bytes(size)


def close_frame(code: int | None = 1000, reason: str = "") -> bytes:
    """A close frame; None is one without a code."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2) + reason.encode())


def handshake(
    target: str = "/", *, method: str = "GET", version: str = "HTTP/1.1", without: str = "", **fields: str
) -> bytes:
    """A handshake that is right, but for what is changed: field names with _ for -; ``without`` leaves one out."""
    lines = {
        "host": "test",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines.pop(without, None)
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} {version}\r\n{text}\r\n".encode()


@dataclass
class Frame:
    """One frame as it came."""

    opcode: int
    payload: bytes
    flags: int = FIN

    @property
    def code(self) -> int:
        """Of a close frame; 1005 when it has none."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2]) if self.payload else 1005

    @property
    def reason(self) -> str:
        """Of a close frame."""
        return self.payload[2:].decode()


class RawWebSocket:
    """An open WebSocket; ``response`` is what answered the handshake, which had to be right."""

    def __init__(
        self,
        address: tuple[str, int],
        target: str = "/",
        *,
        behind: bytes = b"",
        receive_buffer: int = 0,
        **fields: Any,
    ) -> None:
        """behind: sent in one piece with the handshake."""
        self.client = RawClient(address, receive_buffer=receive_buffer)
        self.sock = self.client.sock
        self.client.send(handshake(target, **fields) + behind)
        self.response: Response = self.client.head()
        assert self.response.status == 101, self.response
        accept = base64.b64encode(hashlib.sha1(KEY.encode() + GUID).digest()).decode()
        assert self.response.header("sec-websocket-accept") == accept
        assert self.response.header("upgrade") == "websocket"
        assert self.response.header("connection") == "Upgrade"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        """These bytes, in one piece."""
        self.client.send(b"".join(frames))

    def text(self, text: str) -> None:
        """A text message."""
        self.send(frame(TEXT, text.encode(), mask=os.urandom(4)))

    def receive(self) -> Frame:
        """The next frame, which must not be masked (RFC 6455 5.1). Raises EOFError."""
        first, second = self.client.read(2)
        assert second < 0x80, "a frame of the server is masked"
        size = second
        if size >= 126:
            size = int.from_bytes(self.client.read(2 if size == 126 else 8))
        return Frame(first & 0x0F, self.client.read(size), first & 0xF0)

    def receive_text(self) -> str:
        """The next frame, which must be a whole text message."""
        got = self.receive()
        assert (got.opcode, got.flags) == (TEXT, FIN), got
        return got.payload.decode()

    def ended(self, code: int) -> Frame:
        """Read the server's close frame with this code, and the end of the connection."""
        got = self.receive()
        assert got.opcode == CLOSE, got
        assert got.code == code, (got.code, got.reason)
        assert self.client.closed()
        return got

    def close(self, code: int | None = 1000) -> None:
        """The client's closing handshake."""
        self.send(close_frame(code))
        for got in iter(self.receive, None):
            if got.opcode == CLOSE:
                break
        assert self.client.closed()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, again and again."""
    pieces: list[bytes] = []
    at = 0
    for size in itertools.cycle(sizes or [len(data) or 1]):
        if at >= len(data):
            return pieces
        pieces.append(data[at : at + size])
        at += size
    return pieces
