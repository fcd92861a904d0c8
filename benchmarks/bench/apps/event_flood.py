"""An ASGI application that sends numbered events as fast as their client takes them, until it leaves.

Between two events it gives way once (`await asyncio.sleep(0)`), as a feed does that has others to serve, and it
watches for `http.disconnect`, as some servers let an application send for ever to who has left. An event has the
same length whatever its number; event_load.c checks each. Any number of streams may run at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


def event(number: int) -> bytes:
    """`data: {"id":0000000001,"text":"Hello, World!"}`, with a number of ten digits."""
    return b'data: {"id":%010d,"text":"Hello, World!"}\n\n' % number


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Serve one stream until its client leaves."""
    if scope["type"] != "http":
        raise NotImplementedError(f"event_flood serves HTTP requests only, not {scope['type']!r}")
    left = asyncio.ensure_future(_left(receive))
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    number = 0
    try:
        while not left.done():
            number += 1
            await send({"type": "http.response.body", "body": event(number), "more_body": True})
            await asyncio.sleep(0)
    except OSError:  # what servers that follow ASGI 2.4 raise when the client has left
        pass
    finally:
        left.cancel()


async def _left(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
