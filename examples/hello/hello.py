"""The smallest application: one ASGI callable, no dependency.

It promises `Hello, World!` with status 200 to every HTTP request, and answers nothing else: a lifespan or WebSocket
scope is refused by raising, as the ASGI specification asks of an application that does not know a scope's type.
The benchmark measures this file, so it does nothing that a request does not need.
"""

from collections.abc import Awaitable, Callable
from typing import Any

BODY = b"Hello, World!"
HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(BODY)).encode())]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer one request. Touches nothing but its arguments and two constants, so any number of threads may call it."""
    if scope["type"] != "http":
        raise NotImplementedError(f"hello serves HTTP requests only, not {scope['type']!r}")
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
