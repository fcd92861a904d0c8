"""What clients can fill has a bound: real clients try to, and the process's memory is looked at (docs/limits.md)."""

from __future__ import annotations

import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..support.client import RawClient
from ..support.daemon import Daemon
from ..support.websocket import BINARY, FIN, PING, RSV1, TEXT, RawWebSocket, frame

MIB = 1024 * 1024

# Takes nothing of what is sent, until there is a file `release`; /large sends what nobody reads.
APP = """
import asyncio
from pathlib import Path

HERE = Path(__file__).parent

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    while scope["path"] == "/deaf" and not (HERE / "release").exists():
        await asyncio.sleep(0.01)
    if scope["type"] == "websocket":
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2000 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})
"""
WSGI = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def app(environ, start_response):
    while environ["PATH_INFO"] == "/deaf" and not (HERE / "release").exists():
        time.sleep(0.01)
    if environ["PATH_INFO"] == "/large":
        start_response("200 OK", [])
        return (bytes(100_000) for _ in range(2000))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def resident(pid: int) -> int:
    """Its memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def pour(sock: socket.socket, data: bytes, most: int, seconds: float = 0.5) -> int:
    """Send ``data`` again and again, until nobody has taken any for ``seconds``, or ``most`` bytes; how many went."""
    sock.settimeout(seconds)
    sent = 0
    view = memoryview(data)
    at = 0
    while sent < most:
        try:
            size = sock.send(view[at:])
        except OSError:  # TimeoutError: it reads no more; or it has closed
            break
        sent += size
        at = (at + size) % len(data)
    return sent


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Served:
    """A daemon that has served a request."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.address = ("127.0.0.1", daemon.port)
        self.release = daemon.folder / "release"
        with RawClient(self.address) as client:
            assert client.get().body == b"ok"
        (self.pid,) = daemon.workers()


@pytest.fixture(scope="module", params=["threads", "loop", "wsgi"])
def anyhow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    workers = {"mode": "async" if request.param == "loop" else "sync"}
    app = WSGI if request.param == "wsgi" else APP
    with Daemon(tmp_path_factory.mktemp("any"), app=app, config={"workers": workers}) as daemon:
        yield Served(daemon.wait_ready())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {"websocket": {"max_message": "1MiB"}, "admin": {"listen": "127.0.0.1:0"}}
    with Daemon(tmp_path_factory.mktemp("bounds"), app=APP, config=config) as daemon:
        yield Served(daemon.wait_ready())


@pytest.fixture(autouse=True)
def _release(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who waits for it in one test does not in the next."""
    names = [name for name in ("anyhow", "served") if name in request.fixturenames]
    files = [request.getfixturevalue(name).release for name in names]
    for file in files:
        file.unlink(missing_ok=True)
    yield
    for file in files:
        file.touch()


def test_an_upload_that_the_application_does_not_take_stays_with_its_client(
    anyhow: Served, stack: ExitStack
) -> None:
    before = resident(anyhow.pid)
    client = stack.enter_context(RawClient(anyhow.address))
    client.send(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n\r\n")
    assert pour(client.sock, bytes(MIB), 100 * MIB) < 20 * MIB, "the rest waits at the client"
    assert resident(anyhow.pid) - before < 16 * MIB


def test_a_response_that_nobody_reads_stays_with_the_application(anyhow: Served, stack: ExitStack) -> None:
    """And what is sent behind its request stays with the client."""
    before = resident(anyhow.pid)
    clients = [stack.enter_context(RawClient(anyhow.address, receive_buffer=4096)) for _ in range(10)]
    for client in clients:
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    for client in clients:
        client.head()
    assert pour(clients[0].sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 100 * MIB) < 20 * MIB
    assert resident(anyhow.pid) - before < 48 * MIB, "200 MB were asked for by each"


def test_requests_behind_one_that_waits_are_not_read(served: Served, stack: ExitStack) -> None:
    before = resident(served.pid)
    client = stack.enter_context(RawClient(served.address))
    client.send(b"GET /deaf HTTP/1.1\r\nHost: x\r\n\r\n")
    assert pour(client.sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 100 * MIB) < 20 * MIB
    assert resident(served.pid) - before < 16 * MIB


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "more", "status"),
    [
        (b"GET /", b"a" * 4096, 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 4096, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 1000, 431),
        (CHUNKED, b"0" * 4096, 400),
        (CHUNKED + b"1;a=", b"a" * 4096, 400),
        (CHUNKED, b"1;a=" + b"b" * 40 + b"\r\nx\r\n", 400),
        (CHUNKED + b"0\r\n", b"A: b\r\n" * 1000, 431),
        (CHUNKED + b"0\r\nA: ", b"a" * 4096, 431),
    ],
    ids=["line", "header", "headers", "chunk size", "chunk extension", "extensions", "trailers", "trailer"],
)
def test_what_has_no_end_is_refused(served: Served, head: bytes, more: bytes, status: int) -> None:
    before, mark = resident(served.pid), served.daemon.mark()
    with RawClient(served.address) as client:
        client.send(head)
        pour(client.sock, more * (40_000 // len(more)), 10 * MIB)
        client.sock.settimeout(20)
        try:
            assert client.response().status == status
        except ConnectionResetError:
            pass  # it went on sending: what was answered may be lost (RFC 9112 9.6)
    served.daemon.wait_for_line(rf'"(- - HTTP/-|POST \S+ HTTP/1\.1)" {status} ', after=mark)
    assert resident(served.pid) - before < 8 * MIB


def test_a_body_in_chunks_of_two_bytes_takes_its_size_and_no_more(served: Served) -> None:
    with RawClient(served.address) as client:
        client.send(CHUNKED + b"2\r\nab\r\n" * 60_000 + b"0\r\n\r\n")
        assert client.response().status == 200
        before = resident(served.pid)
        Path(f"/proc/{served.pid}/clear_refs").write_text("5")  # VmHWM begins anew (proc_pid_clear_refs(5))
        client.send(CHUNKED + b"2\r\nab\r\n" * 500_000 + b"0\r\n\r\n")
        assert client.response().status == 200
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.pid}/status").read_text())
    assert int(peak) * 1024 - before < 24 * MIB, "half a million objects would be 24 MB beside all else"


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_messages_that_the_application_does_not_take_stay_with_their_client(
    served: Served, *, packed: bool
) -> None:
    before = resident(served.pid)
    fields: dict[str, Any] = {"sec_websocket_extensions": "permessage-deflate"} if packed else {}
    with RawWebSocket(served.address, "/deaf", **fields) as client:
        assert pour(client.sock, frame(TEXT, b"ab") * 5000, 100 * MIB) < 20 * MIB
        assert resident(served.pid) - before < 16 * MIB
        served.release.touch()


def test_pings_whose_answers_nobody_reads_are_not_read(served: Served) -> None:
    before = resident(served.pid)
    with RawWebSocket(served.address, receive_buffer=4096) as client:
        assert pour(client.sock, frame(PING, bytes(125)) * 500, 100 * MIB) < 40 * MIB
        assert resident(served.pid) - before < 8 * MIB


def test_a_small_message_that_unpacks_to_a_large_one_is_refused(served: Served) -> None:
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(bytes(200 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert len(bomb) < MIB, "which is websocket.max_message"
    before = resident(served.pid)
    packed: dict[str, Any] = {"sec_websocket_extensions": "permessage-deflate"}
    with RawWebSocket(served.address, **packed) as client:
        client.send(frame(BINARY, bomb, flags=FIN | RSV1))
        assert client.receive().code == 1009
    assert resident(served.pid) - before < 12 * MIB


def test_the_admin_plane_answers_however_many_connect(served: Served, stack: ExitStack) -> None:
    """It takes 512 connections: the longest idle go, and those that say nothing as well."""
    port = int(served.daemon.wait_for_line(r"admin plane is at http://\S+:(\d+)")[1])

    def ask(more: bytes = b"", method: bytes = b"GET") -> RawClient:
        client = stack.enter_context(RawClient(("127.0.0.1", port)))
        client.send(method + b" /livez HTTP/1.1\r\nHost: localhost\r\n" + more)
        return client

    assert all(ask(b"\r\n").response().status == 200 for _ in range(300))
    for _ in range(600):
        stack.enter_context(RawClient(("127.0.0.1", port)))
    assert ask(b"\r\n").response().status == 200
    assert ask(b"A: b\r\n" * 101).response().status == 431
    assert ask(b"Content-Length: 65537\r\n\r\n", b"POST").response().status == 413


def test_the_control_socket_keeps_no_more_than_a_line_of_a_client(served: Served, stack: ExitStack) -> None:
    place = str(served.daemon.folder / "server.control")
    before = resident(served.daemon.pid)
    for _ in range(40):  # more than it serves at a time
        pour(stack.enter_context(RawClient(place)).sock, b"a" * 65_536, 10 * MIB)
    assert resident(served.daemon.pid) - before < 8 * MIB
    with RawClient(served.address) as client:
        assert client.get().body == b"ok"
