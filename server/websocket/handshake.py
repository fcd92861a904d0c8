"""The opening handshake of RFC 6455 4.2, and what the client may be told when it is wrong.

The head was parsed and checked as any request's; the fields that matter here go to the ``websockets`` library, which
checks them, answers the key and agrees on permessage-deflate (RFC 7692 7.1). Promises: a handshake that is not right is
refused before the application hears of it, with a status, a reason in one line, and the fields that tell the client
what to do: 405 with Allow for another method, 426 with the version that is spoken here (RFC 6455 4.4), else 400.
Refuses: to choose a subprotocol, or to judge an Origin; both are the application's.

Pure functions of bytes; any thread may call them.
"""

from __future__ import annotations

import logging
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidHeaderValue,
    InvalidMethod,
    InvalidProtocol,
    InvalidUpgrade,
)
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from ..http.events import RequestReceived
from ..http.response import ResponseError, encode_head

Pairs = list[tuple[bytes, bytes]]

# All that a handshake is decided by. "host" was checked with the head.
_DECISIVE: Final = frozenset(
    {
        b"connection",
        b"upgrade",
        b"origin",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
    }
)
# Belong to the handshake or to the connection, so they are not the application's: dropped, as in any response.
_OURS: Final = frozenset(
    {
        b"connection",
        b"upgrade",
        b"content-length",
        b"transfer-encoding",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
    }
)
# A window of 4 KiB instead of 32, as the library's own servers have it ("Compression" in its documentation, where it is
# measured): with it an idle connection takes 40 KB in all (1,000 of them), with the largest it would be hundreds.
_DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)
# What the library says of each frame at level debug is what users write to each other: not for our log.
_quiet = logging.getLogger("serverd.websocket")
_quiet.setLevel(logging.ERROR)


class HandshakeRefused(Exception):
    """The handshake is wrong. status, message and headers: for the answer."""

    def __init__(self, status: int, message: str, headers: Pairs | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = headers or []


class Handshake:
    """A handshake that is right. protocol: open, with its extensions; offered: the client's subprotocols."""

    __slots__ = ("_accept", "_extensions", "offered", "protocol")

    def __init__(self, request: RequestReceived, compression: bool) -> None:
        """Raises HandshakeRefused."""
        if request.method == "GET" and (request.content_length or request.chunked):
            raise HandshakeRefused(400, "a WebSocket handshake has no body")
        headers = Headers()
        for name, value in request.headers:
            if name in _DECISIVE:
                headers[name.decode("ascii")] = value.decode("latin-1")
        self.protocol = ServerProtocol(
            state=OPEN, extensions=[_DEFLATE] if compression else None, logger=_quiet
        )
        whole = Request(
            request.raw_path.decode("ascii"),
            headers,
            method=request.method,
            protocol=f"HTTP/{request.version}",
        )
        try:
            accept, extensions, _ = self.protocol.process_request(whole)
        except InvalidHandshake as exc:
            raise _refusal(exc, headers) from exc
        self._accept = accept.encode("ascii")
        self._extensions = None if extensions is None else extensions.encode("ascii")
        self.offered = offered(request)

    def response(self, subprotocol: str | None, headers: Pairs, date: bytes) -> bytes:
        """The head of the 101 response. headers: the application's. Raises ResponseError."""
        lines = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", self._accept),
            (b"date", date),
        ]
        if self._extensions is not None:
            lines.append((b"sec-websocket-extensions", self._extensions))
        if subprotocol is not None:
            if subprotocol not in self.offered:
                # RFC 6455 4.1: the client would have to fail the connection, and nobody would know why.
                # Their names stay out of the log: clients put tokens there, as JavaScript can set no other header.
                count = len(self.offered)
                raise ResponseError(
                    f"subprotocol {subprotocol!r} is not one of the {count} that the client offered"
                )
            lines.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        for name, value in headers:
            key = (
                bytes(name).lower() if isinstance(name, (bytes, bytearray, memoryview)) else b""
            )  # what it is else, encode_head says
            if key.startswith(b"sec-websocket-"):
                field = key.decode("latin-1")
                raise ResponseError(f"{field} is the server's to send; for a protocol there is `subprotocol`")
            if key == b"date":
                lines[3] = (name, value)
            elif key not in _OURS:
                lines.append((name, value))
        return encode_head(101, lines)


def offered(request: RequestReceived) -> list[str]:
    """The subprotocols that the client asks for, in its order of preference (RFC 6455 11.3.4)."""
    return [
        word
        for name, value in request.headers
        if name == b"sec-websocket-protocol"
        for word in (part.strip() for part in value.decode("latin-1").split(","))
        if word
    ]


def _refusal(exc: InvalidHandshake, headers: Headers) -> HandshakeRefused:
    if isinstance(exc, InvalidMethod):
        return HandshakeRefused(405, "a WebSocket handshake is a GET request", [(b"allow", b"GET")])
    if isinstance(exc, InvalidProtocol):
        return HandshakeRefused(
            400, "HTTP/1.0 cannot change to WebSocket; a proxy in between has to speak HTTP/1.1"
        )
    if isinstance(exc, InvalidUpgrade) and not headers.get_all("Upgrade"):
        return HandshakeRefused(
            400,
            "Sec-WebSocket-Key came without Upgrade: websocket; a proxy in between has to pass Upgrade on",
        )
    if isinstance(exc, InvalidHeaderValue) and exc.name == "Sec-WebSocket-Version":
        return HandshakeRefused(
            426,
            "this version of WebSocket is not spoken here, but version 13",
            [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")],
        )
    # Without the value, which the library's words have: it is the client's, and may be a secret.
    if isinstance(exc, InvalidHeader):
        what = "missing" if exc.value is None else "invalid"
        return HandshakeRefused(400, f"not a WebSocket handshake: {what} {exc.name} header")
    return HandshakeRefused(400, "not a WebSocket handshake")
