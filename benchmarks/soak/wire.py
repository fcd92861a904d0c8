"""One connection of a client of the mixed load: HTTP/1.1 and WebSocket as bytes, read strictly.

Promises: what is not exactly right raises `Wrong`; `pid` is the child that gave the last answer, `proven` when that
was, so that a request that is lost can be laid at the door of whoever held it. Kept independent of the code under test.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import time
from typing import Final, NamedTuple, Self

_HOST: Final = "127.0.0.1"
# A response larger than this waits in the server and not here.
_WINDOW: Final = 16 * 1024
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Wrong(Exception):
    """An answer that is not what it should be."""


class Response(NamedTuple):
    """As it came; names of fields in lower case."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return self.fields.get(b"connection", b"").lower() == b"close"


class Connection:
    """See the module. Belongs to one task."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float) -> None:
        self.reader = reader
        self.writer = writer
        self.pid: int | None = None
        self.proven = began

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None, *, narrow: bool = False) -> Self:
        """`narrow`: with a small receive buffer, so that a response waits in the server."""
        began = time.monotonic()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if narrow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
            await asyncio.get_running_loop().sock_connect(sock, (_HOST, port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=tls, server_hostname=_HOST if tls else None, limit=_WINDOW if narrow else 65536
            )
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer, began)

    def send(self, data: bytes) -> None:
        """As it is."""
        self.writer.write(data)

    async def response(self, *, pause: float = 0.0) -> Response:
        """The next one. `pause`: between two reads of the body. Raises Wrong, EOFError, OSError."""
        status, fields = await self.head()
        while status == 100:
            status, fields = await self.head()
        if fields.get(b"transfer-encoding") == b"chunked":
            body = await self._chunks()
        else:
            if b"content-length" not in fields:
                raise Wrong(f"no length in {fields!r}"[:300])
            body = await self._bytes(int(fields[b"content-length"]), pause)
        self._known(fields)
        return Response(status, fields, body)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and fields."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise Wrong("a head without an end") from error
        first, *lines = head[:-4].split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 ") or not first[9:12].isdigit():
            raise Wrong(f"no status line: {first[:60]!r}")
        fields = {}
        for line in lines:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        return int(first[9:12]), fields

    def _known(self, fields: dict[bytes, bytes]) -> None:
        self.proven = time.monotonic()
        if b"x-pid" in fields:
            self.pid = int(fields[b"x-pid"])

    async def _bytes(self, length: int, pause: float) -> bytes:
        pieces = []
        while length:
            piece = await self.reader.read(min(length, _WINDOW if pause else 65536))
            if not piece:
                raise EOFError(f"the end, {length} bytes early")
            pieces.append(piece)
            length -= len(piece)
            if pause:
                await asyncio.sleep(pause)
        return b"".join(pieces)

    async def _chunks(self) -> bytes:
        pieces: list[bytes] = []
        while True:
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            piece = await self.reader.readexactly(size + 2)
            if piece[-2:] != b"\r\n":
                raise Wrong(f"a chunk ends with {piece[-2:]!r}")
            if not size:
                return b"".join(pieces)
            pieces.append(piece[:-2])
            self.proven = time.monotonic()

    async def end(self) -> bytes:
        """What still comes until the server closes. Raises OSError when it resets."""
        return await self.reader.read(-1)

    # -- WebSocket -----------------------------------------------------------------------------------------------------

    async def shake_hands(self, path: str) -> None:
        """Become a WebSocket. Raises Wrong."""
        key = base64.b64encode(os.urandom(16))
        self.send(
            b"GET %s HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (path.encode(), key)
        )
        status, fields = await self.head()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        if status != 101 or fields.get(b"sec-websocket-accept") != accept:
            raise Wrong(f"handshake: {status} {fields!r}"[:300])
        self._known(fields)

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which has to be a whole message."""
        first, second = await self.reader.readexactly(2)
        if not first & 0x80 or first & 0x70 or second & 0x80:
            raise Wrong(f"a frame that begins with {first:02x} {second:02x}")
        size = second
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2))
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8))
        payload = await self.reader.readexactly(size)
        self.proven = time.monotonic()
        return first & 0x0F, payload

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """As a client does that has what it wanted."""
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):  # ssl.SSLError is an OSError
            async with asyncio.timeout(5):
                await self.writer.wait_closed()

    def reset(self) -> None:
        """As one that has crashed: RST."""
        sock = self.writer.get_extra_info("socket")  # None: the transport is closed
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def frame(opcode: int, payload: bytes, *, masked: bool = True) -> bytes:
    """One of a client (RFC 6455 5.2), up to 65,535 bytes."""
    size = len(payload)
    flag = 0x80 if masked else 0
    head = (
        bytes((0x80 | opcode, flag | size))
        if size < 126
        else bytes((0x80 | opcode, flag | 126)) + size.to_bytes(2)
    )
    if not masked:
        return head + payload
    mask = os.urandom(4)
    number = int.from_bytes(mask * (size // 4 + 1)) >> (32 - 8 * (size % 4))
    return head + mask + (int.from_bytes(payload) ^ number).to_bytes(size)
