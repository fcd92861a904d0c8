"""The application under the mixed load: one path for each way in which a response can be made, each with the token of
its request in the answer, so that nobody can be given another's."""

# ruff: noqa: INP001 - an application: serverd puts its folder on the path

import asyncio
import gc
import hashlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PID = b"%d" % os.getpid()
FILE = Path(__file__).with_name("soak.bin")
BIG = 1 << 20
PIECES = 16


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Lifespan, WebSocket echo, and what `PATHS` has."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        await PATHS[scope["path"]](scope["query_string"], receive, send)


async def start(send: Send, token: bytes, *more: tuple[bytes, bytes], kind: bytes = b"text/plain") -> None:
    """The head of every response."""
    headers = [(b"content-type", kind), (b"x-token", token), (b"x-pid", PID), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def whole(send: Send, token: bytes, body: bytes) -> None:
    """A response in one piece."""
    await start(send, token)
    await send({"type": "http.response.body", "body": body})


async def small(token: bytes, receive: Receive, send: Send) -> None:
    """The token."""
    await whole(send, token, token)


async def waits(token: bytes, receive: Receive, send: Send) -> None:
    """The token, after a wait in the event loop."""
    await asyncio.sleep(0.1)
    await whole(send, token, token)


async def blocks(token: bytes, receive: Receive, send: Send) -> None:
    """The token, after a wait that holds the thread."""
    time.sleep(0.02)  # noqa: ASYNC251 - on purpose: applications do
    await whole(send, token, token)


async def digest(token: bytes, receive: Receive, send: Send) -> None:
    """The length and the SHA-256 of the request's body."""
    seen, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        seen.update(message.get("body", b""))
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await whole(send, token, b"%d %s" % (size, seen.hexdigest().encode()))


async def streamed(token: bytes, receive: Receive, send: Send) -> None:
    """The token in many pieces, without a length."""
    await start(send, token)
    for number in range(PIECES):
        await send({"type": "http.response.body", "body": b"%s %d\n" % (token, number), "more_body": True})
        await asyncio.sleep(0.005)
    await send({"type": "http.response.body"})


async def big(token: bytes, receive: Receive, send: Send) -> None:
    """The token as often as it fits into a MiB, in pieces of 64 KiB, with a length."""
    body = (token * (BIG // len(token) + 1))[:BIG]
    await start(send, token, (b"content-length", b"%d" % BIG))
    for at in range(0, BIG, 65536):
        more = at + 65536 < BIG
        await send({"type": "http.response.body", "body": body[at : at + 65536], "more_body": more})


async def file(token: bytes, receive: Receive, send: Send) -> None:
    """A file that the kernel sends."""
    await start(send, token)
    await send({"type": "http.response.pathsend", "path": str(FILE)})


async def events(token: bytes, receive: Receive, send: Send) -> None:
    """An event stream of twenty events in two seconds."""
    await start(send, token, (b"cache-control", b"no-store"), kind=b"text/event-stream")
    for number in range(20):
        event = b"data: %s %d\n\n" % (token, number)
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body"})


async def echo(receive: Receive, send: Send) -> None:
    """Every message back."""
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-pid", PID)]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def census(token: bytes, receive: Receive, send: Send) -> None:
    """How many objects there are that the collector knows, and how many blocks of memory Python holds."""
    gc.collect()
    await whole(send, token, b"%d %d" % (len(gc.get_objects()), sys.getallocatedblocks()))


PATHS: dict[str, Callable[[bytes, Receive, Send], Awaitable[None]]] = {
    "/small": small,
    "/waits": waits,
    "/blocks": blocks,
    "/digest": digest,
    "/streamed": streamed,
    "/big": big,
    "/file": file,
    "/events": events,
    "/census": census,
}
