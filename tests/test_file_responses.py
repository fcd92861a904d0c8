"""Files as responses, seen by clients on real sockets: `http.response.pathsend` and `http.response.zerocopysend`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, TimeoutsConfig, TlsConfig
from serverd.server.lifecycle import LifecycleEvent, ResponseCompleted
from serverd.server.tls import TlsContexts

from .support.apps import App, Receive, Send, reply
from .support.certificates import Authority, TlsClient
from .support.client import RawClient
from .support.daemon import Daemon, wait_until
from .support.workers import ENGINES, engine, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
LARGE = 50 * 1024 * 1024
OK: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    engines = ENGINES[:1] if metafunc.definition.get_closest_marker("by_threads") else ENGINES
    metafunc.parametrize("_engine", engines, indirect=True)


@pytest.fixture(autouse=True)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with engine(request.param):
        yield


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The path of a file of 50 MB, and its checksum."""
    data = random.Random(7).randbytes(LARGE)
    path = tmp_path_factory.mktemp("files") / "large"
    path.write_bytes(data)
    return str(path), hashlib.sha256(data).hexdigest()


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A file that the kernel sends, and a loopback socket takes at once."""
    path = tmp_path / "medium"
    path.write_bytes(random.Random(8).randbytes(100_000))
    return path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(*folders: str) -> list[str]:
    """The files in ``folders`` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(folders):
                found.append(target)
    return found


def sends(path: str | Path, status: int = 200, headers: Any = ()) -> App:
    """An application that answers with the file at ``path``, and "hello" for /hello."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/hello":
            await reply(send, b"hello")
            return
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.pathsend", "path": str(path)})

    return app


# -- pathsend ----------------------------------------------------------------------------------------------------------


def test_it_is_advertised_and_nothing_leaks_from_one_request_to_the_next() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append({name: dict(value) for name, value in scope["extensions"].items()})
        scope["extensions"]["mine"] = {}
        del scope["extensions"]["http.response.pathsend"]
        await reply(send, b"")

    with serving(app, threads=1) as served, served.connect() as client:
        client.get()
        client.get()
    assert seen[0] == seen[1]
    assert {"http.response.pathsend", "http.response.zerocopysend"} <= seen[0].keys()
    assert not any(seen[0].values())


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 100_000])
@pytest.mark.parametrize("announced", [True, False])
def test_a_file_is_the_whole_response(tmp_path: Path, size: int, announced: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    headers = [(b"content-type", b"text/plain")]
    if announced:
        headers.append((b"content-length", b"%d" % size))
    with serving(sends(path, headers=headers), threads=1) as served, served.connect() as client:
        for _ in range(3):
            response = client.get()
            assert (response.status, response.header("content-type")) == (200, "text/plain")
            assert response.header("content-length") == str(size)
            assert response.body == path.read_bytes()
            assert client.get("/hello").body == b"hello"


def test_small_files_are_read_anew_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with serving(sends(path), threads=1) as served, served.connect() as client:
        for content in (b"one", b"two", b"six", b"seven"):
            path.write_bytes(content)
            assert client.get().body == content


def test_a_relative_path_is_taken_as_open_takes_it(medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(medium.parent)
    with serving(sends("medium")) as served, served.connect() as client:
        assert client.get().body == medium.read_bytes()


@pytest.mark.parametrize("status", [200, 206, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_body_where_there_is_none(medium: Path, status: int, method: str) -> None:
    app = sends(medium, status, [(b"content-length", b"100000")])
    with serving(app, threads=1) as served, served.connect() as client:
        for _ in range(3):
            response = client.get(method=method)
            assert response.status == status
            assert response.header("content-length") == "100000"
            assert len(response.body) == (100_000 if method == "GET" and status != 304 else 0)
            assert client.get("/hello").body == b"hello"
        assert not files(str(medium))


def test_http_1_0(medium: Path) -> None:
    with serving(sends(medium), threads=1) as served:
        with served.connect() as client:
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n")
            first, second = client.response(), client.response()
            assert first.header("connection") == "keep-alive"
            assert first.body == second.body == medium.read_bytes()
            assert client.closed()


def test_pipelined_files(medium: Path, large: tuple[str, str]) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path = large[0] if scope["path"] == "/large" else str(medium)
        if scope["path"] == "/hello":
            await reply(send, b"hello")
        else:
            await send(OK)
            await send({"type": "http.response.pathsend", "path": path})

    targets = [b"/medium", b"/hello", b"/large", b"/medium", b"/hello"]
    with serving(app, threads=1) as served, served.connect() as client:
        client.send(b"".join(b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % target for target in targets))
        bodies = [client.response().body for _ in targets]
        assert client.get("/hello").body == b"hello"
    assert bodies[0] == bodies[3] == medium.read_bytes()
    assert bodies[1] == bodies[4] == b"hello"
    assert sha(bodies[2]) == large[1]


def test_a_length_that_is_not_the_files_is_500(medium: Path, caplog: pytest.LogCaptureFixture) -> None:
    for length in (b"99999", b"100001"):
        app = sends(medium, headers=[(b"content-length", length)])
        with serving(app, threads=1) as served, served.connect() as client:
            assert client.get().status == 500
            assert not files(str(medium))
    assert "100000 bytes where content-length announced 99999" in caplog.text


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_cannot_be_sent_is_the_applications_to_answer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    raised: list[OSError] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(OK)
        try:
            await send({"type": "http.response.pathsend", "path": str(path)})
        except OSError as exc:
            raised.append(exc)
            if scope["path"] == "/raise":
                raise
            await send({"type": "http.response.body", "body": b"sorry"})

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == b"sorry"
        assert client.get("/raise").status == 500
    assert [exc.filename for exc in raised] == [str(path)] * 2


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"type": "http.response.pathsend"}], "pathsend came before http.response.start"),
        ([{"type": "http.response.zerocopysend"}], "zerocopysend came before http.response.start"),
        (
            [
                OK,
                {"type": "http.response.body", "body": b"a", "more_body": True},
                {"type": "http.response.pathsend"},
            ],
            "pathsend came after http.response.body",
        ),
        (
            [OK, {"type": "http.response.pathsend"}, {"type": "http.response.body"}],
            "http.response.body was sent after the response was complete",
        ),
        (
            [OK, {"type": "http.response.pathsend"}, {"type": "http.response.pathsend"}],
            "http.response.pathsend was sent after the response was complete",
        ),
    ],
)
def test_messages_out_of_order(medium: Path, messages: list[dict[str, Any]], error: str) -> None:
    raised: list[RuntimeError] = []
    over = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            for message in messages:
                await send({"path": str(medium), "file": None, **message})
        except RuntimeError as exc:
            raised.append(exc)
            raise
        finally:
            over.set()

    with serving(app, threads=1) as served, served.connect() as client:
        client.send(GET)
        assert over.wait(10)
        assert error in str(raised[0])


def test_a_request_body_that_nobody_reads(large: tuple[str, str]) -> None:
    """The file goes out whole, and then the connection ends: what is left of the body is no request."""
    config = replace(ServerConfig(app="test:app"), limits=LimitsConfig(buffered_body=1000))
    with serving(sends(large[0]), threads=1, config=config) as served, served.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n" + GET * 50)
        response = client.response()
        assert response.header("connection") == "close"
        assert sha(response.body) == large[1]
        assert client.closed()


# -- clients that are slow, or leave -----------------------------------------------------------------------------------


def test_slow_readers_hold_no_thread(large: tuple[str, str]) -> None:
    """Twenty clients that do not read 50 MB each, on one thread, and another is served meanwhile; then they read."""
    with serving(sends(large[0]), threads=1) as served, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(served.connect(receive_buffer=4096)) for _ in range(20)]
        for client in slow:
            client.send(GET)
        for client in slow:
            assert client.head().header("content-length") == str(LARGE)
        with served.connect() as other:
            for _ in range(50):
                assert other.get("/hello").body == b"hello"
        assert len(files(large[0])) == 20
        body = slow[3].read(LARGE)
        assert sha(body) == large[1]
        assert slow[3].get("/hello").body == b"hello"
        assert len(files(large[0])) == 19
        for client in slow[:3]:
            client.sock.close()
        wait_until(lambda: len(files(large[0])) == 16, "the files of three clients that left are closed")
    assert not files(large[0])


def test_a_client_that_does_not_read_is_cut(large: tuple[str, str]) -> None:
    config = replace(ServerConfig(app="test:app"), timeouts=TimeoutsConfig(write=0.3))
    with serving(sends(large[0]), threads=1, config=config) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(GET)
            assert client.head().status == 200
            wait_until(lambda: not files(large[0]), "the file is closed")
            assert len(client.rest()) < LARGE


def test_one_that_reads_slowly_but_steadily_is_not(large: tuple[str, str]) -> None:
    """It takes longer than timeouts.write, and has read PROGRESS within each."""
    config = replace(ServerConfig(app="test:app"), timeouts=TimeoutsConfig(write=0.5))
    ticks = threading.Event()
    with serving(sends(large[0]), threads=1, config=config) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(GET)
            assert client.head().status == 200
            for _ in range(10):
                client.read(400_000)
                ticks.wait(0.15)  # the pace of this client is what is tested
            assert len(files(large[0])) == 1


def test_a_file_that_shrinks_never_looks_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(20_000_000))
    with serving(sends(path), threads=1) as served, served.connect(receive_buffer=4096) as client:
        client.send(GET)
        assert client.head().header("content-length") == "20000000"
        os.truncate(path, 1000)
        assert len(client.rest()) < 20_000_000
        assert not files(str(path))
    assert "bytes fewer than were announced" in caplog.text


def test_the_bytes_are_counted(medium: Path) -> None:
    events: list[LifecycleEvent] = []

    class Collector:
        def record(self, event: LifecycleEvent) -> None:
            events.append(event)

    with serving(sends(medium), threads=1, collector=Collector()) as served, served.connect() as client:
        client.get()
        client.get()  # the first was recorded before this was read
    assert [event.body_bytes for event in events if isinstance(event, ResponseCompleted)] == [100_000] * 2


@pytest.mark.by_threads
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_download_goes_on_while_the_server_drains(
    tmp_path: Path, large: tuple[str, str], how: signal.Signals, mode: str
) -> None:
    source = f"""
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.pathsend", "path": {large[0]!r}}})
"""
    config = {"workers": {"processes": 1, "mode": mode}, "timeouts": {"graceful": "30s"}}
    with Daemon(tmp_path, app=source, config=config) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port), receive_buffer=4096) as client:
            client.send(GET)
            assert client.head().status == 200
            daemon.signal(how)
            daemon.wait_for_line(f'"GET / HTTP/1.1" 200 {LARGE} ')
            daemon.wait_for_line(
                "generation 2 ready" if how == signal.SIGHUP else "stopping, requests in flight"
            )
            assert sha(client.read(LARGE)) == large[1]
            assert client.closed() if how == signal.SIGTERM else client.get(method="HEAD").status == 200
        if how == signal.SIGTERM:
            assert daemon.wait_exit() == 0


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_files_over_tls(tmp_path: Path, medium: Path, large: tuple[str, str]) -> None:
    """In order with what goes before and behind, for one that reads and one that does not yet."""
    authority = Authority(tmp_path)
    made = authority.issue("localhost")
    context = authority.client()
    bodies = parts(medium, *MIXED)

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["scheme"] == "https"
        await (bodies if scope["path"] == "/mixed" else sends(large[0]))(scope, receive, send)

    contexts = TlsContexts(TlsConfig(cert=made.cert, key=made.key))
    with serving(app, threads=1, make_connection=contexts.connection) as served:
        with (
            TlsClient(served.address, context) as client,
            TlsClient(served.address, context, receive_buffer=4096) as slow,
        ):
            slow.send(GET + GET.replace(b"/ ", b"/mixed ") + GET.replace(b"/ ", b"/hello "))
            assert slow.head().header("content-length") == str(LARGE)
            for _ in range(3):
                assert client.get("/mixed").body == mixed(medium.read_bytes())
                assert client.get("/hello").body == b"hello"
            client.send(GET)
            assert sha(client.response().body) == large[1]
            assert len(files(large[0])) == 1
            assert sha(slow.read(LARGE)) == large[1]
            assert slow.response().body == mixed(medium.read_bytes())
            assert slow.response().body == b"hello"
            assert not files(large[0])


def test_a_file_that_shrinks_never_looks_complete_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.issue("localhost")
    path = tmp_path / "log"
    path.write_bytes(bytes(20_000_000))
    contexts = TlsContexts(TlsConfig(cert=made.cert, key=made.key))
    with serving(sends(path), threads=1, make_connection=contexts.connection) as served:
        with TlsClient(served.address, authority.client(), receive_buffer=4096) as client:
            client.send(GET)
            assert client.head().header("content-length") == "20000000"
            os.truncate(path, 1000)
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):  # no close_notify
                client.rest()
            assert not files(str(path))


# -- zerocopysend ------------------------------------------------------------------------------------------------------


def parts(path: Path, *messages: dict[str, Any], headers: Any = ()) -> App:
    """An application whose body is made of ``messages``: parts of the file at ``path`` where they have no body."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/hello":
            await reply(send, b"hello")
            return
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for number, message in enumerate(messages, 1):
            more = {"more_body": True} if number < len(messages) else {}
            if "body" in message:
                await send({"type": "http.response.body", **message, **more})
            else:
                with path.open("rb") as file:
                    await send({"type": "http.response.zerocopysend", "file": file, **message, **more})

    return app


MIXED = (
    {"body": b"begin"},
    {"offset": 10, "count": 50_000},
    {"body": b""},
    {"body": b"middle"},
    {"count": 10},
    {"offset": 99_990},
    {"offset": 100_000},
    {"offset": 200_000, "count": 5},
    {"offset": 1},
)


def mixed(data: bytes) -> bytes:
    return b"begin" + data[10:50_010] + b"middle" + data[:10] + data[99_990:] + data[1:]


@pytest.mark.parametrize("framing", ["chunked", "length", "1.0"])
def test_parts_of_files_mix_with_bytes(medium: Path, framing: str) -> None:
    body = mixed(medium.read_bytes())
    headers = [(b"content-length", b"%d" % len(body))] if framing == "length" else []
    with serving(parts(medium, *MIXED, headers=headers), threads=1) as served, served.connect() as client:
        if framing == "1.0":
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.response().body == body
            return
        for _ in range(2):
            response = client.get()
            assert response.body == body
            assert (response.header("transfer-encoding") == "chunked") == (framing == "chunked")
            assert client.get("/hello").body == b"hello"
        response = client.get(method="HEAD")
        assert response.header("content-length") == (str(len(body)) if headers else None)
        assert client.get("/hello").body == b"hello"
        assert not files(str(medium))


def test_a_part_alone_has_a_length(medium: Path) -> None:
    with (
        serving(parts(medium, {"offset": 5, "count": 90_000}), threads=1) as served,
        served.connect() as client,
    ):
        response = client.get()
        assert response.header("content-length") == "90000"
        assert response.body == medium.read_bytes()[5:90_005]


def test_a_descriptor_and_its_position(medium: Path) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(OK)
        fd = os.open(medium, os.O_RDONLY)
        try:
            for _ in range(4):
                await send(
                    {"type": "http.response.zerocopysend", "file": fd, "count": 25_000, "more_body": True}
                )
        finally:
            os.close(fd)
        await send({"type": "http.response.body"})

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == medium.read_bytes()


def test_a_sender_of_parts_is_held_back(large: tuple[str, str]) -> None:
    """It cannot pile up files for a client that does not read; meanwhile its thread serves others."""
    sent: list[int] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/hello":
            await reply(send, b"hello")
            return
        await send(OK)
        with open(large[0], "rb") as file:  # noqa: ASYNC230 - as an application would
            for number in range(50):
                part = {"file": file, "offset": number * 2**20, "count": 2**20, "more_body": True}
                await send({"type": "http.response.zerocopysend", **part})
                sent.append(number)
        await send({"type": "http.response.body"})

    with serving(app, threads=1) as served, served.connect(receive_buffer=4096) as client:
        client.send(GET)
        assert client.head().header("transfer-encoding") == "chunked"
        with served.connect() as other:
            for _ in range(20):
                assert other.get("/hello").body == b"hello"
        assert len(sent) < 12
        body = bytearray()
        while size := int(client.line(), 16):
            body += client.read(size)
            assert client.line() == ""
        assert client.line() == ""
        assert sha(bytes(body)) == large[1]
        assert client.get("/hello").body == b"hello"
    assert sent == list(range(50))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"file": "name"}, TypeError),
        ({"file": 10**6}, OSError),
        ({"offset": -1}, ValueError),
        ({"count": -1}, ValueError),
    ],
)
def test_no_part_of_a_file(medium: Path, message: dict[str, Any], error: type[Exception]) -> None:
    raised: list[Exception] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(OK)
        with medium.open("rb") as file:
            try:
                await send({"type": "http.response.zerocopysend", "file": file, **message})
            except error as exc:
                raised.append(exc)
        await send({"type": "http.response.body", "body": b"sorry"})

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().body == b"sorry"
    assert len(raised) == 1


def test_more_than_was_announced_cuts(medium: Path) -> None:
    app = parts(medium, {"count": 50_000}, {"count": 60_000}, headers=[(b"content-length", b"100000")])
    with serving(app, threads=1) as served, served.connect() as client:
        client.send(GET)
        assert client.head().status == 200
        assert len(client.rest()) == 50_000
        wait_until(lambda: not files(str(medium)), "the file is closed")


def test_a_client_that_leaves_in_the_middle(large: tuple[str, str]) -> None:
    raised: list[BaseException] = []
    over = threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await send(OK)
        try:
            with open(large[0], "rb") as file:  # noqa: ASYNC230 - as an application would
                await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
            await send({"type": "http.response.body"})
        except BaseException as exc:
            raised.append(exc)
            raise
        finally:
            over.set()

    with serving(app, threads=1) as served:
        with served.connect(receive_buffer=4096) as client:
            client.send(GET)
            assert client.head().status == 200
            client.sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # leaves with a reset
        assert over.wait(10)
        assert isinstance(raised[0], OSError)
        assert not files(large[0])
