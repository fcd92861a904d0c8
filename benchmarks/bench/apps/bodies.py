"""Two ASGI applications for bodies: an answer of 10 KiB, and the body of a request sent back.

Both raise for anything but HTTP, as the ASGI specification asks. They touch nothing but their arguments: any number
of threads may call them at once.
"""

from collections.abc import Awaitable, Callable
from typing import Any

SIZE = 640  # times 16 bytes


async def large(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """10 KiB in one piece, made for each request as an application makes its page."""
    if scope["type"] != "http":
        raise NotImplementedError(f"bodies serves HTTP requests only, not {scope['type']!r}")
    body = b"0123456789abcdef" * SIZE
    await _answer(send, body)


async def echo(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The body of the request, when it has come to its end."""
    if scope["type"] != "http":
        raise NotImplementedError(f"bodies serves HTTP requests only, not {scope['type']!r}")
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await _answer(send, b"".join(parts))


async def _answer(send: Callable[[dict[str, Any]], Awaitable[None]], body: bytes) -> None:
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
