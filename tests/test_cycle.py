"""How an ASGI exchange lets go of its connection: nothing of it stays behind on the descriptor, which is used again."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig

from .support.apps import Receive, Send, read_body
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, engine, serving


@pytest.fixture(params=ENGINES, autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engine(request.param):
        yield


SIZE = 10_000_000


class Meeting:
    """``/<n>``: one task waits in ``receive``, and ``n`` turns of the loop after the client was heard of another one
    completes the response. ``/wait`` waits for its client to leave."""

    def __init__(self) -> None:
        self.listens = threading.Event()
        self.left = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        if scope["path"] == "/wait":
            await receive()
            self.left += 1
            return
        listener = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        self.listens.set()
        heard = select.poll()
        heard.register(receive.__self__.conn.fd, select.POLLIN)  # type: ignore[attr-defined]
        assert heard.poll(10_000)
        for _ in range(int(scope["path"][1:])):
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"last"})
        await listener


@pytest.mark.parametrize("turns", range(4))
def test_a_response_that_ends_as_its_client_is_heard_of_leaves_no_watcher(turns: int) -> None:
    app = Meeting()
    with serving(app, threads=1) as served:
        for _ in range(3):
            app.listens.clear()
            with served.connect() as client:
                client.send(f"GET /{turns} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                client.until(b"first\r\n")
                assert app.listens.wait(10)
                client.half_close()
                client.rest()
            before = app.left
            with served.connect() as client:  # most probably the same descriptor
                client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
                client.until(b"first\r\n")
            wait_until(lambda before=before: app.left > before, "http.disconnect", 5)  # type: ignore[misc]


def test_a_stream_that_begins_while_draining_ends_whole_though_its_client_is_slow() -> None:
    """What the kernel did not take goes out with the connection, which is no longer the stream's to watch."""
    piece = bytes(range(256)) * 40_000

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        with pytest.raises(OSError, match="disconnected"):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})

    with serving(app, home=True) as served:
        served.drain()
        for _ in range(3):
            client = RawClient(served.address, receive_buffer=4096)
            with client:
                client.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
                assert client.response().body == piece
                assert client.closed()
        wait_until(served.is_idle)
        assert served.pool is not None
        home = served.pool._home
        assert home is not None
        assert not home.watcher._writers


@pytest.mark.parametrize("path", ["/raise", "/return", "/unread", "/late"])
def test_a_broken_response_whose_end_is_the_connections_never_looks_complete(path: str) -> None:
    """To HTTP/1.0 the end of the connection is the end of the body: a reset is what says that it was not."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        if path == "/raise":
            raise ValueError
        if path in ("/unread", "/late"):
            await send({"type": "http.response.body", "body": bytes(SIZE), "more_body": path == "/unread"})

    config = ServerConfig(app="test:app", timeouts=TimeoutsConfig(write=0.3))
    with serving(app, config=config) as served, RawClient(served.address, receive_buffer=4096) as client:
        client.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        if path in ("/unread", "/late"):
            wait_until(lambda: served.queue.open)
            wait_until(lambda: not served.queue.open)
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_whole_response_whose_end_is_the_connections_ends_in_order() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await send({"type": "http.response.body", "body": bytes(SIZE if scope["path"] == "/large" else 0)})

    with serving(app) as served:
        for path, size in (("/large", SIZE), ("/small", 0)) * 2:
            with RawClient(served.address, receive_buffer=4096) as client:
                client.send(f"GET {path} HTTP/1.0\r\n\r\nGET /next".encode())
                assert len(client.response().body) == size + 5


def test_the_body_of_a_request_for_events_is_the_applications() -> None:
    """Looking out for the end of the client takes nothing of it away."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        heard = select.poll()
        heard.register(receive.__self__.conn.fd, select.POLLIN)  # type: ignore[attr-defined]
        assert heard.poll(10_000)
        for _ in range(4):
            await asyncio.sleep(0)
        size = len(await read_body(receive))
        await send({"type": "http.response.body", "body": b"%d" % size})

    config = ServerConfig(app="test:app", limits=LimitsConfig(buffered_body=4096))
    with serving(app, threads=1, home=True, config=config) as served, served.connect() as client:
        client.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 50000\r\n\r\n"
        )
        client.send(bytes(20_000))
        client.until(b"first\r\n")
        client.send(bytes(30_000))
        assert client.until(b"\r\n0\r\n").endswith(b"50000\r\n0\r\n")


def test_event_streams_at_the_end_of_the_loop_end_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await receive()
        await receive()

    with serving(app, threads=1, home=True) as served:
        client = served.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        client.until(b"first\r\n")
    client.sock.close()
    assert "about to end" not in caplog.text
    assert "unhandled" not in caplog.text
