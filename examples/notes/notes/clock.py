"""A clock over server-sent events (WHATWG HTML, section "Server-sent events"): one `tick` each second.

A stream ends after `TICKS` seconds and the browser's EventSource opens the next one by itself, sending the
last id it saw, from which the numbers go on. Ended sooner than `timeouts.graceful` (server.yaml), a stream
never keeps a server from stopping and no drain ever cuts one. Each stream is one coroutine with no shared
state: safe on any event loop.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .web import State

TICKS = 25  # shorter than the 30 s of timeouts.graceful
INTERVAL = 1.0  # seconds
RETRY = 200  # milliseconds until the browser opens the next stream
LAST_ID = re.compile(r"[0-9]{1,15}", re.ASCII)


async def events(request: Request[State]) -> Response:
    """The stream: the first tick at once, each with an id one higher than the last."""
    last = request.headers.get("last-event-id", "")
    first = int(last) + 1 if LAST_ID.fullmatch(last) else 1
    return StreamingResponse(
        _ticks(first),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},  # nginx must not collect it either
    )


async def _ticks(first: int) -> AsyncIterator[str]:
    yield f"retry: {RETRY}\n\n"
    for count in range(first, first + TICKS):
        if count > first:
            await asyncio.sleep(INTERVAL)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        yield f"id: {count}\nevent: tick\ndata: {now}\n\n"


routes = [Route("/clock/events", events)]
