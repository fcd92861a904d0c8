"""What a response costs while its client does not read: no copy of a large body, and little of the kernel's memory."""

from __future__ import annotations

from typing import Any

import pytest

from serverd.server.listening import UNSENT
from serverd.server.phases import Phase

from .support.apps import Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, engine, serving

LARGE = bytes(range(250)) * 8_000


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["path"] == "/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        await send({"type": "http.response.body", "body": LARGE[:10]})
    else:
        await reply(send, LARGE)


@pytest.mark.parametrize("by", ENGINES)
def test_a_large_body_is_not_copied_and_mostly_not_in_the_kernel(by: str) -> None:
    with engine(by), serving(app, threads=1) as served:
        with RawClient(served.address, receive_buffer=4096) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: any(conn.phase == Phase.WRITING for conn in served.queue.connections()))
            (conn,) = served.queue.connections()
            pending = [conn.out, *(conn.later or ())]
            assert any(isinstance(piece, memoryview) and piece.obj is LARGE for piece in pending)
            # Beside what is unsent: what the client's kernel holds, and what is under way to it.
            assert len(LARGE) - conn.pending_out < 2 * UNSENT + 128 * 1024


@pytest.mark.parametrize("by", ["threads", "asyncio"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/pieces"])
def test_large_bodies_arrive_whole(by: str, version: str, method: str, path: str) -> None:
    with engine(by), serving(app, threads=1) as served:
        with RawClient(served.address) as client:
            client.send(f"{method} {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
            body = client.response(method).body
        expected = LARGE + LARGE[:10] if path == "/pieces" else LARGE
        assert body == (b"" if method == "HEAD" else expected)
