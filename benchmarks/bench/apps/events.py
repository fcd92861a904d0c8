"""An ASGI application for event streams: each client gets one event at once, and then a stream that stays open.

The coroutine waits for `http.disconnect`, as a chat or a feed does between its events, so what an open stream
costs is what the server keeps for it and one waiting coroutine. Touches nothing but its arguments.
"""

from collections.abc import Awaitable, Callable
from typing import Any

FIRST = b"data: hello\n\n"


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Serve one stream until its client leaves."""
    if scope["type"] != "http":
        raise NotImplementedError(f"events serves HTTP requests only, not {scope['type']!r}")
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": FIRST, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
