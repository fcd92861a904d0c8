"""Small ASGI applications for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


async def reply(
    send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    """The whole request body. Raises ConnectionError when the client disconnects before its end."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError(message["type"])
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def hello(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await reply(send, b"hello")


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await reply(send, await read_body(receive))
