"""Context variables of one request are never another's, whichever way its thread went on."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from serverd.config import LimitsConfig, ServerConfig, WorkersConfig
from serverd.server.app_loader import LoadedApp, no_asgi
from serverd.server.async_pool import AsyncPool
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.workforce import Workforce

from .support.apps import Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import serving

user: ContextVar[str] = ContextVar("user", default="nobody")


def test_a_task_that_was_left_behind_leaves_its_context_with_it() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        name = user.get()
        if scope["path"] == "/alice":
            user.set("alice")
            tasks.append(asyncio.ensure_future(asyncio.sleep(0.01)))
        await reply(send, name.encode())

    tasks: list[asyncio.Future[None]] = []
    with serving(app, threads=1, by="threads") as served, served.connect() as client:
        assert client.get("/alice").body == b"nobody"
        wait_until(served.is_idle)
        assert [client.get("/").body for _ in range(3)] == [b"nobody"] * 3


def test_a_request_behind_one_that_waited_has_a_context_of_its_own() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        name = user.get()
        user.set("alice")
        await asyncio.sleep(0.01)
        await reply(send, name.encode())

    for by in ("threads", "asyncio", "uvloop"):
        with serving(app, threads=1, by=by) as served, served.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            assert [client.response().body for _ in range(3)] == [b"nobody"] * 3


def test_an_application_that_is_no_coroutine_function_has_its_requests_context() -> None:
    def app(scope: dict[str, Any], receive: Receive, send: Send) -> Any:
        name = user.get()
        user.set("alice")
        return reply(send, name.encode())

    class App:
        def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> Any:
            return app(scope, receive, send)

    for each in (app, App()):
        for by in ("threads", "asyncio"):
            with serving(each, threads=1, by=by) as served, served.connect() as client:
                assert [client.get().body for _ in range(3)] == [b"nobody"] * 3


def test_a_stand_in_knows_nothing_of_the_request_that_holds_its_worker() -> None:
    waits = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        name = user.get()
        if environ["PATH_INFO"] == "/alice":
            user.set("alice")
            waits.set()
            environ["wsgi.input"].read()
        start_response("200 OK", [])
        return iter([name.encode()])

    queue = ConnectionQueue()
    limits = LimitsConfig(buffered_body=10)
    config = ServerConfig(app="test:app", workers=WorkersConfig(threads=1), limits=limits)
    loaded = LoadedApp("test:app", "wsgi", no_asgi, None, None, wsgi_app=app)
    force = Workforce(config, loaded, queue, AsyncPool(), None, lambda: None)
    force.start()
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    queue.add_listener(listener)
    with RawClient(address) as alice, RawClient(address) as bob:
        alice.send(b"POST /alice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + bytes(20))
        assert waits.wait(10)
        assert bob.get("/").body == b"nobody"
        alice.send(bytes(80))
        assert alice.response().body == b"nobody"
    queue.wake()
    force.leave(10)
    queue.release()
