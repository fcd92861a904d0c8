"""A FastAPI application that sends numbered events by StreamingResponse, as fast as their client takes them.

The events are those of event_flood.py, from an asynchronous generator that gives way once between two of them; what
notices that the client has left is Starlette. Any number of streams may run at once.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


async def _events() -> AsyncIterator[bytes]:
    number = 0
    while True:
        number += 1
        yield b'data: {"id":%010d,"text":"Hello, World!"}\n\n' % number
        await asyncio.sleep(0)


@app.get("/")
async def events() -> StreamingResponse:
    """A stream that ends with its client."""
    return StreamingResponse(_events(), media_type="text/event-stream", headers={"cache-control": "no-store"})
