"""The home loop beside worker threads: what is long is handed over before the application is called, and comes back."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig, WorkersConfig
from serverd.server.http.events import RequestReceived
from serverd.server.routes import EVENTS, PATH, THREAD, WEBSOCKET, is_event_source, router

from .support.apps import Receive, Send, read_body, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import Workers, serving

BASE = ServerConfig(app="test:app", workers=WorkersConfig(async_paths=("/live",)))
EVENTS_HEADERS = "Accept: text/event-stream\r\n"


async def where(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers with the name of the thread and the length of the body."""
    body = await read_body(receive)
    await reply(send, f"{threading.current_thread().name} {len(body)}".encode())


class Streams:
    """An application whose event streams go on until the client leaves; it notes how each of them ended."""

    def __init__(self) -> None:
        self.open = 0
        self.ended: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await reply(send, threading.current_thread().name.encode())
            return
        await read_body(receive)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
        self.open += 1
        if scope["path"] == "/finite":
            await asyncio.sleep(0.3)
            await send({"type": "http.response.body", "body": b"data: end\n\n"})
            self.ended.append("finished")
            return
        message = await receive()
        self.ended.append(message["type"])
        try:
            await send({"type": "http.response.body", "body": b"data: late\n\n", "more_body": True})
        except OSError:
            self.ended.append("OSError")


def open_stream(served: Workers, method: str = "GET", path: str = "/stream") -> RawClient:
    client = served.connect()
    client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{EVENTS_HEADERS}\r\n".encode())
    client.until(b"data: hello\n\n\r\n")
    return client


def test_what_is_long_is_served_on_the_home_loop_and_all_else_on_threads() -> None:
    with serving(where, config=BASE, home=True) as served, served.connect() as client:
        for _ in range(20):
            assert client.get("/").body.startswith(b"test-worker-")
            assert client.get("/live").body == b"serverd-home 0"
            assert client.get("/live/1?x=1").body == b"serverd-home 0"
            assert client.get("/%6cive").body == b"serverd-home 0"
            assert client.get("/lives").body.startswith(b"test-worker-")
            assert client.get("/", headers=EVENTS_HEADERS).body == b"serverd-home 0"
            assert client.get("/", headers="Accept: text/html\r\n").body.startswith(b"test-worker-")


def test_pipelined_requests_go_to_and_fro_in_order() -> None:
    paths = ["/", "/live", "/live", "/", "/", "/live"] * 10
    with serving(where, config=BASE, home=True) as served, served.connect() as client:
        client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        answers = [client.response().body for _ in paths]
    assert [answer.startswith(b"serverd-home") for answer in answers] == [path == "/live" for path in paths]


def test_a_body_larger_than_the_buffer_is_read_on_the_home_loop() -> None:
    config = replace(BASE, limits=LimitsConfig(buffered_body=4096))
    body = bytes(range(256)) * 4000
    with serving(where, config=config, home=True) as served, served.connect() as client:
        assert client.post("/live", body).body == b"serverd-home %d" % len(body)
        assert client.post("/", body).body.startswith(b"test-worker-")
        assert client.post("/live", body).body == b"serverd-home %d" % len(body)


def test_many_clients_to_and_fro() -> None:
    def session(number: int) -> None:
        with served.connect() as client:
            for turn in range(60):
                body = b"x" * (turn * 97)
                path = "/live" if (turn + number) % 3 else "/"
                answer = client.post(path, body).body.split()
                assert int(answer[1]) == len(body)
                assert (answer[0] == b"serverd-home") == (path == "/live")

    failures: list[BaseException] = []

    def safely(number: int) -> None:
        try:
            session(number)
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the test's own thread
            failures.append(exc)

    with serving(where, config=BASE, threads=4, home=True) as served:
        clients = [threading.Thread(target=safely, args=(number,)) for number in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
    assert failures == []


def test_open_streams_hold_no_thread() -> None:
    app = Streams()
    with serving(app, config=BASE, threads=1, home=True) as served:
        clients = [open_stream(served) for _ in range(200)]
        with served.connect() as other:
            for _ in range(10):
                assert other.get("/").body == b"test-worker-0"
        for client in clients:
            client.sock.close()
        wait_until(lambda: app.ended.count("http.disconnect") == 200)
        wait_until(served.is_idle)


@pytest.mark.parametrize("by", ["threads", "asyncio", "uvloop"])
def test_a_drain_ends_what_a_browser_opens_again_and_leaves_all_else_to_finish(by: str) -> None:
    app = Streams()
    with serving(app, config=BASE, threads=1, home=True, by=by) as served:
        browsers = [open_stream(served) for _ in range(5)]
        asked = open_stream(served, "POST", "/finite")
        served.drain()
        for browser in browsers:
            assert browser.rest().endswith(b"0\r\n\r\n")  # complete: EventSource connects again
        assert asked.until(b"0\r\n\r\n").endswith(b"data: end\n\n\r\n0\r\n\r\n")
        for client in (*browsers, asked):
            client.sock.close()
        wait_until(lambda: sorted(app.ended) == ["OSError"] * 5 + ["finished"] + ["http.disconnect"] * 5)
        wait_until(lambda: served.is_idle() and not served.queue.open)


@pytest.mark.parametrize("by", ["threads", "asyncio", "uvloop"])
def test_a_browser_that_leaves_is_noticed_although_the_application_only_waits(by: str) -> None:
    ended: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(scope["method"])

    with serving(app, config=BASE, home=True, by=by) as served:
        stays = open_stream(served)
        leaves = [open_stream(served) for _ in range(20)]
        reads_on = open_stream(served, "POST")
        reads_on.half_close()
        assert served.queue.open == 22
        for client in leaves:
            client.sock.close()
        wait_until(lambda: served.queue.open == 2)
        wait_until(lambda: ended == ["GET"] * 20)  # cancelled, as nothing else tells it
        stays.sock.close()
        wait_until(lambda: len(ended) == 21)
        reads_on.sock.close()
    assert ended == ["GET"] * 21 + ["POST"]


def test_a_client_of_an_event_stream_may_send_ahead() -> None:
    app = Streams()
    with serving(app, config=BASE, by="asyncio") as served, served.connect() as client:
        client.send(f"GET /finite HTTP/1.1\r\nHost: x\r\n{EVENTS_HEADERS}\r\n".encode())
        client.until(b"data: hello\n\n\r\n")
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.until(b"0\r\n\r\n")
        assert client.response().body == b"serverd-home"


def test_a_stream_that_begins_while_draining_is_ended_at_once() -> None:
    app = Streams()
    with serving(app, config=BASE, threads=1, home=True) as served, served.connect() as client:
        assert client.get("/").status == 200
        served.drain()
        client.send(f"GET /s HTTP/1.1\r\nHost: x\r\n{EVENTS_HEADERS}\r\n".encode())
        assert client.rest().endswith(b"data: hello\n\n\r\n0\r\n\r\n")
        wait_until(lambda: "http.disconnect" in app.ended)


@pytest.mark.parametrize("by", ["asyncio", "uvloop"])
def test_a_connection_with_news_while_its_request_runs_does_not_spin_the_loop(by: str) -> None:
    """The client sends its next request, and half-closes, while the first one waits: level-triggered events."""
    turns = 0

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal turns
        if scope["path"] == "/slow":
            before = loop_turns()
            await asyncio.sleep(0.5)
            turns = loop_turns() - before
        await reply(send, scope["raw_path"])

    def loop_turns() -> int:
        return calls

    calls = 0
    with serving(app, by=by) as served, served.connect() as client:
        queue: Any = served.queue
        ready = queue.ready

        def counted() -> Any:
            nonlocal calls
            calls += 1
            return ready()

        queue.ready = counted
        client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: not served.is_idle())
        client.send(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
        client.half_close()
        assert client.response().body == b"/slow"
        assert client.response().body == b"/next"
    assert turns < 10


def test_blocking_calls_of_mode_async_do_not_stop_the_loop() -> None:
    released = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            await asyncio.to_thread(released.wait, 10)
        await reply(send, scope["raw_path"])

    with serving(app, by="asyncio") as served, served.connect() as held, served.connect() as other:
        held.send(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: not served.is_idle())
        assert other.get("/other").body == b"/other"
        released.set()
        assert held.response().body == b"/block"


def test_sys_exit_in_a_request_does_not_end_the_home_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/later":
            await asyncio.sleep(0)
        if scope["path"] != "/":
            raise SystemExit(3)
        await reply(send, b"ok")

    for by in ("asyncio", "uvloop"):
        with serving(app, by=by) as served, served.connect() as client:
            assert client.get("/now").status == 500
        with serving(app, by=by) as served:
            with served.connect() as client:
                assert client.get("/later").status == 500
            with served.connect() as client:
                assert client.get("/").body == b"ok"
    assert "the application raised an exception" in caplog.text


def test_an_idle_client_of_mode_async_is_closed_in_time() -> None:
    config = replace(BASE, timeouts=TimeoutsConfig(keep_alive=0.2, head=0.2))
    with serving(where, config=config, by="asyncio") as served:
        with served.connect() as idle, served.connect() as half:
            assert idle.get("/").status == 200
            half.send(b"GET / HTTP/1.1\r\nHo")
            assert idle.rest() == b""
            assert half.response().status == 408


def request(headers: list[tuple[bytes, bytes]], path: bytes = b"/", method: str = "GET") -> RequestReceived:
    received = RequestReceived(method, path, path, b"", "1.1", headers)
    received.upgrade = (b"connection", b"upgrade") in headers
    return received


@pytest.mark.parametrize(
    ("headers", "path", "route"),
    [
        ([], b"/", THREAD),
        ([(b"accept", b"*/*")], b"/", THREAD),
        ([(b"accept", b"text/event-stream")], b"/", EVENTS),
        ([(b"accept", b"text/html, Text/Event-Stream;q=0.5")], b"/", EVENTS),
        ([(b"accept", b"text/event-stream")], b"/live", EVENTS),
        ([(b"upgrade", b"WebSocket"), (b"connection", b"upgrade")], b"/live", WEBSOCKET),
        ([(b"upgrade", b"websocket")], b"/", THREAD),
        ([(b"upgrade", b"h2c"), (b"connection", b"upgrade")], b"/", THREAD),
        ([(b"sec-websocket-key", b"x")], b"/", WEBSOCKET),
        ([], b"/live", PATH),
        ([], b"/live/", PATH),
        ([], b"/live/x", PATH),
        ([], b"/livex", THREAD),
        ([], b"/%6Cive", PATH),
        ([], b"/x/live", THREAD),
        ([], b"*", THREAD),
    ],
)
def test_routes(headers: list[tuple[bytes, bytes]], path: bytes, route: int) -> None:
    assert router(("/live",))(request(headers, path)) == route
    assert router(("/live/",))(request(headers, path)) == route


def test_the_root_takes_every_path() -> None:
    assert [router(("/",))(request([], path)) for path in (b"/", b"/x", b"/x/y")] == [PATH] * 3
    assert router(())(request([], b"/x")) == THREAD


def test_only_a_browsers_get_connects_again() -> None:
    accept = [(b"accept", b"text/event-stream")]
    route = router(())
    for method, again in (("GET", True), ("POST", False)):
        asked = request(accept, method=method)
        asked.route = route(asked)
        assert is_event_source(asked) is again
