"""The load for WebSockets: ws_load.c, and the check before it.

Raises LoadError when there is no C compiler. One thread calls all of this.
"""

import base64
import hashlib
import os
import socket
import struct
from functools import partial
from pathlib import Path

from .c_program import compiled
from .load import Load, LoadError

SOURCE = Path(__file__).with_name("ws_load.c")
SIZE = 32  # bytes of a message: a line of a chat
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
TEXT, PING = 0x81, 0x89  # first byte of a frame that is a whole message (RFC 6455 5.2)


def echo() -> Load:
    """Text messages of 32 bytes, each sent when the one before has come back; no compression is offered."""
    program = str(compiled(SOURCE))
    return Load("message", check, partial(_command, program))


def _command(program: str, port: int, connections: int, _threads: int, seconds: int) -> list[str]:
    return [program, str(port), str(connections), str(seconds), str(SIZE)]


def check(port: int) -> int:
    """A handshake and one echo; the size of the frame that the load will get. Raises LoadError when one is wrong."""
    message = "Grüße, World!".encode()
    with open_websocket(port) as client:
        send_text(client, message)
        answer = receive(client)
        if answer != message:
            raise LoadError(f"echoes {answer!r} for {message!r}")
    return 2 + SIZE


def open_websocket(port: int) -> socket.socket:
    """A client's socket after a handshake that was right (RFC 6455 4.1); raises LoadError, OSError."""
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        key = base64.b64encode(os.urandom(16))
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = client.recv(4096)  # nothing comes behind the head: an echo has no reason to speak first
            if not part:
                break
            head += part
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        fields = [
            (name.lower(), value.strip())
            for name, _, value in (f.partition(b":") for f in head.split(b"\r\n"))
        ]
        if not head.startswith(b"HTTP/1.1 101 ") or (b"sec-websocket-accept", accept) not in fields:
            raise LoadError(f"refuses the WebSocket: {head[:80]!r}")
    except BaseException:
        client.close()
        raise
    return client


def send_text(client: socket.socket, message: bytes) -> None:
    """One masked frame of at most 125 bytes."""
    key = os.urandom(4)
    masked = bytes(byte ^ key[index % 4] for index, byte in enumerate(message))
    client.sendall(struct.pack("!BB", TEXT, 0x80 | len(message)) + key + masked)


def receive(client: socket.socket) -> bytes:
    """The next text message of at most 125 bytes; a ping is passed over. Raises LoadError for anything else."""
    while True:
        first, length = _exactly(client, 2)
        if first not in (TEXT, PING) or length > 125:
            raise LoadError(f"sends a frame that begins with {first:#04x} {length:#04x}")
        payload = _exactly(client, length)
        if first == TEXT:
            return payload


def _exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            raise LoadError("closes the WebSocket without a reason")
        data += part
    return data
