"""What slow and hostile clients do: one ``Kind`` for each way, as data. ``crowd`` carries it out."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, replace
from typing import Final

HEAD: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 4000 + b"\r\n\r\n"
GET: Final = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK: Final = bytes(4)


def frame(opcode: int, payload: bytes) -> bytes:
    """A frame of a WebSocket client (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + _MASK + payload
    return bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2) + _MASK + payload


def client_hello() -> bytes:
    """What a TLS client sends first. The same for all: a server cannot tell, and this client is spared the work."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


@dataclass(frozen=True, slots=True)
class Kind:
    """Connections that are held: ``count`` of them, each opened again when the server closes it.

    first: sent at once, of those in turn (the handshake of ``upgrade`` before it). drip: sent one byte each ``every``
    seconds, or, with ``whole``, all of it as long as the kernel takes it. read: bytes taken each ``every`` seconds;
    -1: all that comes, at once. buffer: SO_RCVBUF.

    With ``rate`` none is held: so many connections a second send ``first`` and are reset, or closed with ``orderly``,
    after ``stay`` seconds. cut: of number n only the first n bytes (modulo all of them) are sent. settle: seconds until
    it is what it is called, and measured.
    """

    name: str
    what: str
    count: int
    first: tuple[bytes, ...] = (b"",)
    drip: bytes = b""
    whole: bool = False
    every: float = 1.0
    read: int = 0
    buffer: int = 0
    rate: float = 0.0
    stay: float = 0.0
    orderly: bool = False
    cut: bool = False
    tls: bool = False
    upgrade: bool = False
    settle: float = 1.0


def kinds() -> dict[str, Kind]:
    """All of them by name."""
    hello = client_hello()
    reader = Kind("", "", 1000, every=1.0, read=64, buffer=4096)
    every = [
        Kind("heads", "a byte of a head each second", 10_000, (HEAD[:1],), drip=HEAD[1:], read=-1),
        Kind("bodies", "a byte of a body each second", 10_000, (POST,), drip=b"b" * 1000, read=-1),
        Kind("idle", "one request each, then idle keep-alives", 10_000, (GET % b"/",), read=-1),
        Kind("silent", "connections that never send", 10_000),
        replace(
            reader,
            name="slow-bytes",
            what="10 MB as one body, read 64 bytes a second",
            first=(GET % b"/bytes",),
        ),
        replace(
            reader,
            name="slow-fresh",
            what="the same, made for each request",
            count=100,
            first=(GET % b"/fresh",),
            settle=4.0,
        ),
        replace(
            reader, name="slow-stream", what="10 MB in pieces of 64 KiB, read so", first=(GET % b"/stream",)
        ),
        replace(reader, name="slow-file", what="10 MB of a file, read so", first=(GET % b"/file",)),
        Kind(
            "tls-part",
            "handshakes: 0, 1, 5, half of the bytes of a ClientHello",
            10_000,
            (b"", hello[:1], hello[:5], hello[: len(hello) // 2]),
            tls=True,
        ),
        Kind("tls-hello", "handshakes that end after ServerHello", 2000, (hello,), read=-1, tls=True),
        Kind("tls-drip", "a byte of a ClientHello each second", 5000, (hello[:1],), drip=hello[1:], tls=True),
        Kind(
            "resets", "reset at every byte of a request", 0, (GET % b"/bytes",), rate=300, stay=0.05, cut=True
        ),
        Kind(
            "answers", "reset while 10 MB are sent", 0, (GET % b"/bytes",), rate=100, stay=0.02, buffer=4096
        ),
        Kind("connects", "connect and close, 500 a second", 0, rate=500, orderly=True),
        Kind(
            "unread",
            "requests without end, no answer read",
            200,
            (GET % b"/",),
            drip=(GET % b"/") * 1000,
            whole=True,
            buffer=4096,
            settle=12.0,  # each has 1,200 answered before it is stopped: that is load
        ),
        Kind(
            "pipeline",
            "1,000 requests in one write, 4 a second",
            0,
            ((GET % b"/") * 1000,),
            rate=4,
            stay=0.5,
            read=-1,
        ),
        Kind(
            "ws-half",
            "WebSockets: half a frame, a byte a second",
            2000,
            (frame(2, bytes(60_000))[:30_000],),
            drip=bytes(30_000),
            read=-1,
            upgrade=True,
        ),
        Kind(
            "ws-unread",
            "WebSockets: messages of 16 KB, no echo read",
            500,
            (frame(2, bytes(16_000)),),
            drip=frame(2, bytes(16_000)) * 4,
            whole=True,
            buffer=4096,
            upgrade=True,
        ),
        Kind(
            "ws-pings",
            "WebSockets: 2,000 pings a second, answers read",
            20,
            (b"",),
            drip=frame(9, b"ping") * 100,
            whole=True,
            read=-1,
            upgrade=True,
        ),
    ]
    return {kind.name: kind for kind in every}
