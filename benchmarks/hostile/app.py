"""What the daemon serves while it is attacked: small answers, 10 MB in three ways, and an echo over WebSocket."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

SIZE = 10_000_000
PIECE = bytes(64 * 1024)
BIG = bytes(SIZE)
FILE = (
    str(Path(__file__).parent / "big.bin") if "HOSTILE_FILE" not in os.environ else os.environ["HOSTILE_FILE"]
)
SMALL = b"Hello, World!"

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """One path for each kind of answer."""
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    path = scope["path"]
    size = len(SMALL) if path == "/" else SIZE
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % size), (b"content-type", b"text/plain")],
        }
    )
    if path == "/":
        await send({"type": "http.response.body", "body": SMALL})
    elif path == "/bytes":  # the same object for everybody
        await send({"type": "http.response.body", "body": BIG})
    elif path == "/fresh":  # made for each request, as by most applications
        await send({"type": "http.response.body", "body": b"x" * SIZE})
    elif path == "/file":
        await send({"type": "http.response.pathsend", "path": FILE})
    else:
        left = SIZE
        while left:
            piece = PIECE[:left]
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            await asyncio.sleep(0)


async def echo(receive: Receive, send: Send) -> None:
    """Every message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
