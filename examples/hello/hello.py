"""The smallest application: one ASGI callable, no dependency.

It promises `Hello, World!` with status 200 to every HTTP request, and answers nothing else: a lifespan or WebSocket
scope is refused by raising, as the ASGI specification asks of an application that does not know a scope's type.
The benchmark measures this file, so it does nothing that a request does not need.
"""

from collections.abc import Awaitable, Callable
from typing import Any


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer one request. Touches nothing but its arguments, so any number of threads may call it at once.

    The headers are written here and not kept in a list for all: constants in code cost nothing to share, while many
    threads would contend for the reference counts of one list and what is in it.
    """
    if scope["type"] != "http":
        raise NotImplementedError(f"hello serves HTTP requests only, not {scope['type']!r}")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, World!"})
