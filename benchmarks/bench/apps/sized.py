"""An ASGI application for bodies of any size: `GET /10240` is answered with so many bytes, a POST with how many it had.

The bytes of an answer are made at its first request and kept: what is measured is the way of a body through the
server. A POST is read to its end and forgotten piece by piece. Any number of threads may call it at once.
"""

from collections.abc import Awaitable, Callable
from typing import Any

PIECE = b"0123456789abcdef"
_bodies: dict[str, bytes] = {}


def body(size: int) -> bytes:
    """The answer of so many bytes."""
    return (PIECE * (size // len(PIECE) + 1))[:size]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        raise NotImplementedError(f"sized serves HTTP requests only, not {scope['type']!r}")
    if scope["method"] == "POST":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        answer = b"%d" % size
    else:
        path = scope["path"]
        answer = _bodies.get(path) or _bodies.setdefault(path, body(int(path[1:])))
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
