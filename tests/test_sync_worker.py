"""How requests are served, seen by clients on real sockets: by SyncWorkers, and by the home loop of `mode: async`.

Each test runs with both, and with both event loops, but for those that are about threads (``by_threads``).
"""

from __future__ import annotations

import array
import asyncio
import contextvars
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig
from serverd.server.app_loader import no_asgi
from serverd.server.lifecycle import (
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleEvent,
    NoOpCollector,
    RequestStarted,
    ResponseCompleted,
    recorder,
)
from serverd.server.sync_app import RawRequest, RawResponse
from serverd.server.sync_worker import SyncWorker

from .support.apps import Receive, Send, echo, hello, read_body, reply
from .support.daemon import wait_until
from .support.workers import ENGINES, engine, serving

BASE = ServerConfig(app="test:app")
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


by_threads = pytest.mark.by_threads


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    engines = ENGINES[:1] if metafunc.definition.get_closest_marker("by_threads") else ENGINES
    metafunc.parametrize("_engine", engines, indirect=True)


@pytest.fixture(autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engine(request.param):
        yield


def config(*, limits: dict[str, Any] | None = None, timeouts: dict[str, Any] | None = None) -> ServerConfig:
    return replace(BASE, limits=LimitsConfig(**(limits or {})), timeouts=TimeoutsConfig(**(timeouts or {})))


# -- one connection ----------------------------------------------------------------------------------------------------


def test_keep_alive_answers_many_requests_on_one_connection() -> None:
    with serving(hello) as served, served.connect() as client:
        for _ in range(50):
            response = client.get()
            assert (response.status, response.reason, response.body) == (200, "OK", b"hello")
            assert response.header("content-length") == "5"
            assert response.header("date") is not None
            assert response.header("connection") is None


def test_pipelined_requests_are_answered_in_order() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, scope["raw_path"] + await read_body(receive))

    requests = b"".join(
        b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\nPOST /p%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        % (n, n)
        for n in range(20)
    )
    with serving(app) as served, served.connect() as client:
        client.send(requests)
        bodies = [client.response().body for _ in range(40)]
    assert bodies == [text for n in range(20) for text in (b"/%d" % n, b"/p%dabc" % n)]


def test_pipelined_behind_a_request_that_waits() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await reply(send, scope["raw_path"])

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(30)))
        assert [client.response().body for _ in range(30)] == [b"/%d" % n for n in range(30)]


@pytest.mark.parametrize("step", [1, 7])
def test_a_request_in_pieces_is_one_request(step: int) -> None:
    request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789" + GET
    with serving(echo) as served, served.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), step):
            client.send(request[at : at + step])
        assert client.response().body == b"0123456789"
        assert client.response().body == b""


def test_chunked_request() -> None:
    with serving(echo) as served, served.connect() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n"
        )
        client.send(b"0\r\nTrailer: no\r\n\r\n" + GET)
        assert client.response().body == b"abcdefg"
        assert client.response().body == b""


def test_connection_close_is_honoured() -> None:
    with serving(hello) as served, served.connect() as client:
        response = client.get(headers="Connection: foo, close\r\n")
        assert response.header("connection") == "close"
        assert client.closed()


def test_http_1_0_closes_unless_asked_to_keep() -> None:
    with serving(hello) as served:
        with served.connect() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.response().body == b"hello"
            assert client.closed()
        with served.connect() as client:
            for _ in range(2):
                client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                response = client.response()
                assert response.header("connection") == "keep-alive"


def test_half_closed_client_gets_its_answer() -> None:
    with serving(hello) as served, served.connect() as client:
        client.send(GET)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"hello"
        assert client.closed()


def test_a_truncated_body_never_reaches_the_application() -> None:
    calls: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        calls.append(scope["path"])
        await reply(send, b"")

    with serving(app) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
    assert not calls


def test_expect_continue() -> None:
    with serving(echo) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        interim = client.response()
        assert (interim.status, interim.reason) == (100, "Continue")
        client.send(b"abc")
        assert client.response().body == b"abc"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_without_a_body(method: str, status: int) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"" if status != 200 else b"twelve bytes", status)

    with serving(app) as served, served.connect() as client:
        response = client.get(method=method)
        assert (response.status, response.body) == (status, b"")
        assert response.header("transfer-encoding") is None
        assert response.header("content-length") == {200: "12", 204: None, 304: None}[status]
        assert client.get(method=method).status == status  # nothing was left on the connection


# -- streaming ---------------------------------------------------------------------------------------------------------


def test_streaming_goes_on_in_the_same_coroutine_on_the_same_thread() -> None:
    seen: list[tuple[int, Any]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            seen.append((threading.get_ident(), asyncio.current_task()))
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body"})

    with serving(app, threads=4) as served, served.connect() as client:
        response = client.get()
        assert response.header("transfer-encoding") == "chunked"
        assert response.body == b"01234"
        assert client.get().body == b"01234"
    assert len(seen) == 10
    assert len(set(seen[:5])) == 1
    assert len(set(seen[5:])) == 1


def test_streaming_to_http_1_0_ends_with_the_connection() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    with serving(app) as served, served.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.response()
        assert response.header("transfer-encoding") is None
        assert response.body == b"ab"


def test_a_body_larger_than_the_buffer_is_streamed_to_the_application() -> None:
    started = threading.Event()
    body = bytes(range(256)) * 2048

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        first = await receive()
        if first["more_body"]:
            started.set()
            first["body"] += await read_body(receive)
        await reply(send, first["body"])

    with serving(app, threads=1, config=config(limits={"buffered_body": 4096})) as served:
        with served.connect() as client, served.connect() as other:
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            client.send(head + body[:8192])
            assert started.wait(10)
            # The only thread is not held by the upload that waits for its client.
            other.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)
            assert other.response().body == b"x" * 5000
            client.send(body[8192:])
            assert client.response().body == body
            assert client.post("/", b"y" * 5000).body == b"y" * 5000


def test_an_application_that_ignores_a_large_body_still_answers() -> None:
    with serving(hello, config=config(limits={"buffered_body": 1024})) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 2000)
        response = client.response()
        assert (response.status, response.header("connection")) == (200, "close")
        assert client.closed()


# -- no client holds a thread ------------------------------------------------------------------------------------------


def test_idle_and_half_sent_connections_hold_no_thread() -> None:
    with serving(hello, threads=1) as served:
        idle = [served.connect() for _ in range(40)]
        for number, client in enumerate(idle):
            if number % 4 == 1:
                client.get()
            elif number % 4 == 2:
                client.send(b"GET / HTTP/1.1\r\nHos")
            elif number % 4 == 3:
                client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        with served.connect() as client:
            assert client.get().body == b"hello"
        idle[2].send(b"t: x\r\n\r\n")
        assert idle[2].response().body == b"hello"
        for client in idle:
            client.sock.close()


def test_an_unread_response_holds_no_thread() -> None:
    big = bytes(10_000_000)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, big if scope["path"] == "/big" else b"small")

    with serving(app, threads=1) as served:
        with served.connect(receive_buffer=4096) as slow, served.connect() as other:
            slow.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert other.get().body == b"small"
            assert slow.response().body == big
            assert slow.response().body == b"small"


def test_a_stream_to_a_slow_reader_holds_no_thread() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await reply(send, b"small")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        await send({"type": "http.response.body"})

    with serving(app, threads=1) as served:
        with served.connect(receive_buffer=4096) as slow, served.connect() as other:
            slow.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            slow.head()
            for _ in range(5):
                assert other.get().body == b"small"
            assert slow._chunks() == bytes(10_000_000)
            assert slow.get().body == b"small"


def test_a_coroutine_that_waits_holds_no_thread() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            loop = asyncio.get_running_loop()
            gate = loop.create_future()
            gates.append((loop, gate))
            await gate
        await reply(send, scope["raw_path"])

    gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
    with serving(app, threads=1) as served, served.connect() as other:
        waiting = [served.connect() for _ in range(20)]
        for client in waiting:
            client.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: len(gates) == 20, "20 waiting requests")
        assert [other.get("/fast").body for _ in range(10)] == [b"/fast"] * 10
        for loop, gate in gates:
            loop.call_soon_threadsafe(gate.set_result, None)
        assert [client.response().body for client in waiting] == [b"/wait"] * 20
        assert other.get("/fast").body == b"/fast"
        for client in waiting:
            client.sock.close()
    assert all(worker.is_idle() for worker in served.workers)


def test_a_task_that_a_request_left_behind_goes_on() -> None:
    done = threading.Event()

    async def background() -> None:
        await asyncio.sleep(0.02)
        done.set()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(background()))
        await reply(send, b"ok")

    tasks: list[asyncio.Task[None]] = []
    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == b"ok"
        assert done.wait(10)
        assert client.get().body == b"ok"


def test_a_timer_that_a_request_left_behind_fires() -> None:
    done = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        asyncio.get_running_loop().call_later(0.02, done.set)
        await reply(send, b"ok")

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == b"ok"
        assert done.wait(10)


# -- the application's faults ------------------------------------------------------------------------------------------


class Boom(Exception):
    pass


async def raise_at_once(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise Boom("secret detail")


async def raise_later(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    raise Boom("secret detail")


async def leave(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise SystemExit(3)


async def leave_later(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    raise SystemExit(3)


async def nothing(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    return


async def only_start(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def split(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await reply(send, b"", headers=[(b"x", b"a\r\nset-cookie: b")])


async def cancelled(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


def not_a_coroutine(scope: dict[str, Any], receive: Receive, send: Send) -> int:
    return 3


@pytest.mark.parametrize(
    "app",
    [raise_at_once, raise_later, leave, leave_later, nothing, only_start, split, cancelled, not_a_coroutine],
)
def test_a_faulty_application_answers_500_and_the_thread_lives(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(app, threads=1) as served:
        for _ in range(3):
            with served.connect() as client:
                response = client.get("/path?token=secret")
                assert (response.status, response.body) == (500, b"Internal Server Error\n")
                assert client.closed()
    assert "GET /path: the application" in caplog.text
    assert "token=secret" not in caplog.text


@pytest.mark.parametrize("length", [2, 20])
def test_a_body_of_another_length_than_said_cuts_the_connection(length: int) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(length).encode())],
            }
        )
        for piece in (b"aaaaa", b"bbbbb"):
            await send({"type": "http.response.body", "body": piece, "more_body": piece[0] == 97})

    with serving(app) as served, served.connect() as client:
        client.send(GET + GET)
        try:
            head = client.head()
            assert head.header("content-length") == str(length) or head.status == 500
            if head.status == 200:
                assert len(client.rest()) < length
        except EOFError:
            pass


def test_an_exception_after_the_response_began_cuts_it() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise Boom

    with serving(app) as served, served.connect() as client:
        client.send(GET)
        client.head()
        assert b"0\r\n\r\n" not in client.rest()


def test_messages_out_of_order_raise_into_the_application() -> None:
    raised: list[str] = []
    early: list[dict[str, Any]] = [
        {"type": "http.response.body", "body": b"x"},
        {"type": "http.response.push"},
    ]
    late: list[dict[str, Any]] = [
        {"type": "http.response.body"},
        {"type": "http.response.start", "status": 200},
    ]

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        for message in early:
            with pytest.raises(RuntimeError) as error:
                await send(message)
            raised.append(str(error.value))
        await reply(send, b"ok")
        for message in late:
            with pytest.raises(RuntimeError) as error:
                await send(message)
            raised.append(str(error.value))

    with serving(app) as served, served.connect() as client:
        assert client.get().body == b"ok"
        wait_until(lambda: len(raised) == 4)


# -- disconnects -------------------------------------------------------------------------------------------------------


def test_receive_reports_a_disconnect() -> None:
    seen: list[str] = []
    waiting, over = threading.Event(), threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        waiting.set()
        seen.append((await receive())["type"])
        over.set()

    with serving(app, threads=1) as served:
        with served.connect() as client:
            client.send(GET)
            assert waiting.wait(10)
        assert over.wait(10)
    assert seen == ["http.request", "http.disconnect"]


def test_send_raises_oserror_when_the_client_is_gone() -> None:
    caught: list[BaseException] = []
    begun, over = threading.Event(), threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
                begun.set()
                await asyncio.sleep(0)
        except BaseException as exc:
            caught.append(exc)
            raise
        finally:
            over.set()

    with serving(app, threads=1) as served:
        with served.connect() as client:
            client.send(GET)
            assert begun.wait(10)
        assert over.wait(10)
        with served.connect() as client:
            client.send(GET)
            client.head()
    assert isinstance(caught[0], OSError)


def test_receive_after_the_response_is_a_disconnect() -> None:
    after: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"ok")
        await receive()
        after.append((await receive())["type"])

    with serving(app) as served, served.connect() as client:
        assert client.get().body == b"ok"
        wait_until(lambda: after == ["http.disconnect"])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"b" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + b"x" * 2048, 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_a_refused_request_never_reaches_the_application(request_bytes: bytes, status: int) -> None:
    calls: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        calls.append(scope["path"])
        await reply(send, b"")

    with serving(app, config=config(limits={"body": 1000})) as served, served.connect() as client:
        client.send(request_bytes)
        response = client.response()
        assert response.status == status
        assert response.header("connection") == "close"
        assert len(response.body.splitlines()) == 1
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
    assert not calls


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"\r\n", None),  # no request yet: a 408 would be taken for the answer to the next one
        (b"GET / HT", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 408),
        (GET, None),
    ],
)
def test_deadlines(sent: bytes, status: int | None) -> None:
    short = config(timeouts={"head": 0.2, "body": 0.2, "keep_alive": 0.2})
    with serving(hello, config=short) as served, served.connect() as client:
        client.send(sent)
        if sent == GET:
            assert client.response().status == 200
        if status:
            assert client.response().status == status
        assert client.closed()


@pytest.mark.parametrize(
    "sent", [b"HEAD / HTTP/1.1\r\nHost", b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"]
)
def test_a_deadline_that_passes_for_head_is_answered_without_a_body(sent: bytes) -> None:
    short = config(timeouts={"head": 0.2, "body": 0.2})
    with serving(hello, config=short) as served, served.connect() as client:
        client.send(sent)
        assert client.response("HEAD").status == 408
        assert client.closed()


def test_the_head_deadline_is_total_and_not_per_byte() -> None:
    with serving(hello, config=config(timeouts={"head": 0.3})) as served, served.connect() as client:
        client.sock.settimeout(0.05)
        answer = b""
        for byte in b"GET / HTTP/1.1\r\nHost: " + b"x" * 500:
            try:
                client.sock.send(bytes([byte]))
                answer = client.sock.recv(100)
                break
            except TimeoutError:
                continue
        assert b"408" in answer


def test_a_client_that_never_reads_is_cut_off() -> None:
    over = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
        except OSError:
            over.set()
            raise

    with serving(app, threads=1, config=config(timeouts={"write": 0.3})) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(GET)
            assert over.wait(10)


# -- scope, state, events ----------------------------------------------------------------------------------------------


def test_the_scope_is_complete() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await reply(send, b"")

    with serving(app) as served, served.connect() as client:
        client.get("/caf%C3%A9/a%2Fb?x=%20y", headers="X-Thing:  One \r\nx-thing: two\r\n")
        local = client.sock.getsockname()
    scope = scopes[0]
    assert scope["type"] == "http"
    assert scope["asgi"]["version"] == "3.0"
    assert scope["http_version"] == "1.1"
    assert scope["method"] == "GET"
    assert scope["scheme"] == "http"
    assert scope["path"] == "/café/a/b"
    assert scope["raw_path"] == b"/caf%C3%A9/a%2Fb"
    assert scope["query_string"] == b"x=%20y"
    assert scope["root_path"] == ""
    assert scope["headers"] == [(b"host", b"test"), (b"x-thing", b"One"), (b"x-thing", b"two")]
    assert tuple(scope["client"]) == local
    assert tuple(scope["server"]) == served.address
    assert scope["extensions"]["http.response.early_hint"] == {}
    assert "state" not in scope


def test_each_request_gets_its_own_shallow_copy_of_the_state() -> None:
    shared: list[int] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        state = scope["state"]
        leaked = "mine" in state
        state["mine"] = True
        state["shared"].append(1)
        await reply(send, b"leaked" if leaked else b"own")

    with serving(app, state={"shared": shared}) as served, served.connect() as client:
        assert [client.get().body for _ in range(4)] == [b"own"] * 4
    assert len(shared) == 4


class Recorder:
    def __init__(self) -> None:
        self.events: list[LifecycleEvent] = []

    def record(self, event: LifecycleEvent) -> None:
        self.events.append(event)


def test_lifecycle_events_come_in_order() -> None:
    recorded = Recorder()
    with serving(hello, threads=1, collector=recorded) as served:
        with served.connect() as client:
            client.get("/a")
            client.get("/b")
        wait_until(lambda: isinstance(recorded.events[-1], ConnectionCompleted))
    kinds = [type(event) for event in recorded.events]
    each = [RequestStarted, ResponseCompleted]
    assert kinds == [ConnectionOpened, *each, *each, ConnectionCompleted]
    completed = [event for event in recorded.events if isinstance(event, ResponseCompleted)]
    assert [(event.status, event.body_bytes) for event in completed] == [(200, 5), (200, 5)]
    assert isinstance(recorded.events[-1], ConnectionCompleted)
    assert recorded.events[-1].requests == 2
    assert len({event.connection_id for event in recorded.events}) == 1


def test_a_cut_response_is_a_client_disconnected() -> None:
    recorded = Recorder()
    with serving(raise_later, threads=1, collector=recorded) as served, served.connect() as client:
        client.get()
    assert any(isinstance(event, ResponseCompleted) and event.status == 500 for event in recorded.events)

    async def partly(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})

    recorded = Recorder()
    with serving(partly, threads=1, collector=recorded) as served, served.connect() as client:
        client.send(GET)
        client.rest()
    assert any(isinstance(event, ClientDisconnected) for event in recorded.events)


@by_threads
def test_no_collector_makes_no_events() -> None:
    assert recorder(None) is None
    assert recorder(NoOpCollector()) is None


def test_a_failing_collector_harms_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def record(self, event: LifecycleEvent) -> None:
            raise Boom

    with serving(hello, collector=Failing()) as served, served.connect() as client:
        assert client.get().status == 200
        assert client.get().status == 200
    assert "lifecycle collector" in caplog.text


@by_threads
def test_sync_app_is_called_without_asgi_and_may_leave_a_request_to_it() -> None:
    seen: list[RawRequest] = []

    class Sync:
        def handle_sync(self, request: RawRequest) -> RawResponse | None:
            seen.append(request)
            if request.path == b"/asgi":
                return None
            if request.path == b"/boom":
                raise Boom
            return RawResponse(201, ((b"x-a", b"b"),), b"sync:" + request.body)

    with serving(echo, sync_app=Sync()) as served, served.connect() as client:
        response = client.post("/x%20y?q=1", b"body")
        assert (response.status, response.body, response.header("x-a")) == (201, b"sync:body", "b")
        assert client.post("/asgi", b"body").body == b"body"
        assert client.get("/boom").status == 500
    assert seen[0].method == b"POST"
    assert seen[0].path == b"/x%20y"
    assert seen[0].query_string == b"q=1"
    assert (b"host", b"test") in seen[0].headers


# -- the seed's forms --------------------------------------------------------------------------------------------------


@by_threads
def test_a_worker_with_its_own_socket_stops_with_its_event() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = SyncWorker(BASE, hello, listener, shutdown_event=stop)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            sock.sendall(GET)
            assert sock.recv(1000).endswith(b"hello")
        wait_until(worker.is_idle, "an idle worker")
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@by_threads
def test_a_worker_needs_something_to_serve() -> None:
    with pytest.raises(ValueError, match="conn_queue or a listening sock"):
        SyncWorker(BASE, hello, None)


def test_draining_says_close_on_the_last_response() -> None:
    with serving(hello, threads=1) as served, served.connect() as client:
        assert client.get().header("connection") is None
        served.drain()
        assert client.get().header("connection") == "close"
        assert client.closed()


# -- many at once ------------------------------------------------------------------------------------------------------


def test_many_clients_on_many_threads_each_get_their_own_answer() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["raw_path"].endswith(b"7"):
            await asyncio.sleep(0)
        await reply(send, scope["raw_path"] + await read_body(receive))

    def session(number: int) -> int:
        with served.connect() as client:
            for turn in range(60):
                target = f"/{number}-{turn}"
                body = b"x" * (turn * 50)
                assert client.post(target, body).body == target.encode() + body
        return 60

    with serving(app, threads=8) as served, ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(session, range(16))) == 16 * 60


def test_more_connections_than_allowed_wait_and_are_served() -> None:
    with serving(hello, config=config(limits={"connections": 3})) as served:
        clients = [served.connect() for _ in range(6)]
        for client in clients:
            client.send(GET)
        for client in clients[:2]:
            assert client.response().status == 200
        for client in clients:
            client.sock.close() if client in clients[:3] else None
        for client in clients[3:]:
            assert client.response().status == 200
            client.sock.close()


@by_threads
def test_a_websocket_handshake_is_answered_as_plain_http_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with serving(hello) as served, served.connect() as client:
        for _ in range(3):
            assert client.get(headers=headers).status == 200
    assert caplog.text.count("asked for WebSocket") == 1


# -- each of these went wrong once -------------------------------------------------------------------------------------


def test_pipelining_behind_a_response_whose_application_goes_on() -> None:
    release = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, scope["raw_path"])
        if scope["path"] == "/background":
            while not release.is_set():  # noqa: ASYNC110 - an event of the test's thread
                await asyncio.sleep(0.005)

    with serving(app, threads=2) as served, served.connect() as client:
        client.send(
            b"".join(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"background", b"second"))
        )
        assert [client.response().body for _ in range(2)] == [b"/background", b"/second"]
        assert client.get("/third").body == b"/third"
        release.set()
        wait_until(lambda: all(worker.is_idle() for worker in served.workers))
        assert client.get("/fourth").body == b"/fourth"


def test_pipelining_behind_an_application_that_waited_and_then_goes_on() -> None:
    release = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.001)
        await reply(send, scope["raw_path"])
        if scope["path"] == "/background":
            while not release.is_set():  # noqa: ASYNC110 - an event of the test's thread
                await asyncio.sleep(0.005)

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(
            b"".join(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"background", b"second"))
        )
        assert [client.response().body for _ in range(2)] == [b"/background", b"/second"]
        release.set()


def test_a_request_that_came_in_time_is_not_punished_for_busy_threads() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            time.sleep(1.2)  # noqa: ASYNC251 - the point of the test is a thread that is blocked
        await reply(send, b"ok")

    short = config(timeouts={"keep_alive": 0.3, "head": 0.3})
    with serving(app, threads=1, config=short) as served, served.connect() as busy:
        with served.connect() as idle, served.connect() as new:
            assert idle.get().status == 200
            new.send(b"GET / HTTP/1.1\r\nHost")
            wait_until(lambda: any(conn.inbox for conn in served.queue.connections()))
            busy.send(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: not served.is_idle())
            idle.send(GET)
            new.send(b": x\r\n\r\n")
            assert idle.response().status == 200
            assert new.response().status == 200
            assert busy.response().status == 200


def test_a_memoryview_is_as_long_as_its_bytes() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body: Any = memoryview(array.array("I", range(5))) if scope["path"] == "/view" else b"hello"
        await reply(send, body)

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get("/").body == b"hello"
        assert client.get("/view").body == array.array("I", range(5)).tobytes()
        assert client.get("/").body == b"hello"


def test_two_tasks_of_one_response_may_send() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        async def part() -> None:
            for _ in range(8):
                await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with asyncio.TaskGroup() as group:
            group.create_task(part())
            group.create_task(part())
        await send({"type": "http.response.body"})

    with serving(app, threads=1) as served, served.connect(receive_buffer=65536) as client:
        assert len(client.get().body) == 16_000_000


def test_two_tasks_may_wait_for_the_disconnect_and_one_be_cancelled() -> None:
    seen: list[str] = []
    waiting, over = threading.Event(), threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        first: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(receive())
        second: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(receive())
        await asyncio.sleep(0.01)
        first.cancel()
        waiting.set()
        seen.append((await second)["type"])
        over.set()

    with serving(app, threads=1) as served:
        with served.connect() as client:
            client.send(GET)
            assert waiting.wait(10)
        assert over.wait(10)
    assert seen == ["http.disconnect"]


@by_threads
def test_a_left_behind_task_does_not_spin_the_worker_at_the_end() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3600)))
        await reply(send, b"ok")

    tasks: list[asyncio.Task[None]] = []
    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == b"ok"
        assert not served.is_idle()
    assert tasks[0].cancelled()


@by_threads
def test_context_variables_of_a_sync_app_do_not_leak() -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    class Sync:
        def handle_sync(self, request: RawRequest) -> RawResponse | None:
            before = user.get()
            user.set("alice")
            return RawResponse(200, (), before.encode())

    with serving(hello, sync_app=Sync(), threads=1) as served, served.connect() as client:
        assert [client.get().body for _ in range(2)] == [b"nobody"] * 2


@by_threads
def test_a_pure_sync_app_refuses_a_body_that_is_not_buffered() -> None:
    class Sync:
        def handle_sync(self, request: RawRequest) -> RawResponse | None:
            return RawResponse(200, (), b"")

    small = config(limits={"buffered_body": 1024})
    with serving(no_asgi, sync_app=Sync(), config=small) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(50000))
        response = client.response()
        assert response.status == 413
        assert b"limits.buffered_body" in response.body


async def stream_until_gone(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": bytes(1000), "more_body": True})
            await asyncio.sleep(0.001)
    except OSError as exc:
        raise Boom from exc


async def return_after_disconnect(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("app", [stream_until_gone, return_after_disconnect])
def test_a_client_that_leaves_is_no_error_of_the_application(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(app, threads=1) as served:
        with served.connect() as client:
            client.send(GET)
            wait_until(lambda: not served.is_idle())
        wait_until(lambda: served.is_idle() and not served.queue.open)
    assert caplog.text == ""


@pytest.mark.parametrize("buffered", [1024, 10_000_000])
def test_a_steady_upload_has_its_time_and_a_dripping_one_has_not(buffered: int) -> None:
    short = config(timeouts={"body": 0.5}, limits={"buffered_body": buffered})
    with serving(echo, config=short, threads=1) as served:
        with served.connect() as steady:
            steady.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n")
            for _ in range(7):
                steady.send(bytes(100_000))
                time.sleep(0.15)  # as a slow line does: longer than the limit in all
            assert len(steady.response().body) == 700_000
        with served.connect() as dripping:
            dripping.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n" + bytes(5000))
            dripping.sock.settimeout(0.1)
            answer = b""
            for _ in range(100):
                try:
                    dripping.sock.send(b"x")
                    answer = dripping.sock.recv(100)
                    break
                except TimeoutError:
                    continue
            assert b" 408 " in answer
