"""Slow and hostile clients of a real daemon: none holds a thread, each is cut off in time, none leaves a trace.

Nothing here is timed but what a client does: it drips, and has to be cut off while it goes on dripping.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ..support.certificates import Authority
from ..support.client import RawClient
from ..support.daemon import Daemon, sockets, wait_until
from ..support.websocket import BINARY, frame, handshake

APP = """
import asyncio, os, time

BIG = bytes(10_000_000)
FILE = os.path.join(os.path.dirname(__file__), "big.bin")
with open(FILE, "wb") as file:
    file.truncate(len(BIG))
slow = 0

async def app(scope, receive, send):
    global slow
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send(message | {"type": "websocket.send"})
        return
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/slow":
        slow += 1
        time.sleep(0.005)
    if path == "/body":
        while (await receive()).get("more_body"):
            pass
    head = {"type": "http.response.start", "status": 200, "headers": []}
    if path in ("/bytes", "/file"):
        head["headers"] = [(b"content-length", b"%d" % len(BIG))]
    await send(head)
    if path == "/bytes":
        await send({"type": "http.response.body", "body": BIG})
    elif path == "/file":
        await send({"type": "http.response.pathsend", "path": FILE})
    elif path == "/stream":
        for at in range(0, len(BIG), 50_000):
            await send({"type": "http.response.body", "body": BIG[:50_000], "more_body": True})
        await send({"type": "http.response.body"})
    else:
        await send({"type": "http.response.body", "body": b"%d" % slow if path == "/count" else b"fine"})
"""

WSGI = """
BIG = bytes(50_000)

def app(environ, start_response):
    start_response("200 OK", [("content-type", "text/plain")])
    if environ["PATH_INFO"] == "/body":
        environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/stream":
        return (BIG for _ in range(200))
    return [b"fine"]
"""

GET: Final = "GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
POST: Final = "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
# What goes wrong loudly.
NOISE: Final = r"Traceback|internal error| error  |raised an exception"


def configuration(mode: str, **timeouts: str) -> dict[str, Any]:
    return {
        "workers": {"mode": mode, "threads": 1},
        "timeouts": timeouts,
        "limits": {"buffered_body": 1024},
        "logging": {"level": "info", "access": False},
    }


@pytest.fixture(scope="module", params=["sync", "async"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With one thread, and all time in the world."""
    with Daemon(
        tmp_path_factory.mktemp(request.param), app=APP, config=configuration(request.param)
    ) as daemon:
        yield daemon.wait_ready()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Authority]]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    config = {**configuration("sync"), "tls": authority.issue("localhost").config()}
    with Daemon(folder, app=APP, config=config) as daemon:
        yield daemon.wait_ready(), authority


# -- no thread is held -------------------------------------------------------------------------------------------------


def begin(path: str) -> Callable[[RawClient], None]:
    """Ask for it, and read no more than that it has begun."""

    def act(client: RawClient) -> None:
        client.send((GET % path).encode())
        assert client.sock.recv(8) == b"HTTP/1.1"

    return act


def say(text: str) -> Callable[[RawClient], None]:
    return lambda client: client.send(text.encode())


def flood(client: RawClient) -> None:
    """Requests without end, until nobody takes them any more."""
    client.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            client.sock.send((GET % "/" * 1000).encode())


def upgrade(then: bytes) -> Callable[[RawClient], None]:
    def act(client: RawClient) -> None:
        client.send(handshake())
        assert client.head().status == 101
        client.send(then)

    return act


HOLDING: Mapping[str, Callable[[RawClient], None]] = {
    "silent": say(""),
    "head": say("GET / HT"),
    "idle": lambda client: [client.get("/")].clear(),
    "small body": say(POST % ("/", 100) + "x"),
    "large body": say(POST % ("/body", 100_000) + "x" * 2000),
    "bytes": begin("/bytes"),
    "stream": begin("/stream"),
    "file": begin("/file"),
    "requests": flood,
    "refused": say("nonsense\r\n\r\n"),
    "half a frame": upgrade(frame(BINARY, bytes(60_000))[:30_000]),
    "echoes": upgrade(frame(BINARY, bytes(60_000)) * 20),
}


@pytest.mark.parametrize("kind", HOLDING)
def test_no_kind_of_client_holds_a_thread(daemon: Daemon, kind: str) -> None:
    address = ("127.0.0.1", daemon.port)
    with contextlib.ExitStack() as stack, RawClient(address) as kept:
        assert kept.get("/").body == b"fine"
        for _ in range(20):
            HOLDING[kind](stack.enter_context(RawClient(address, receive_buffer=4096)))
        assert kept.get("/").body == b"fine"
        with RawClient(address) as new:
            assert new.get("/").body == b"fine"


def test_nor_of_a_wsgi_application(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=WSGI, config=configuration("sync")) as daemon, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", daemon.wait_ready().port)
        for kind in ("silent", "head", "idle", "small body", "large body", "stream"):
            for _ in range(5):
                HOLDING[kind](stack.enter_context(RawClient(address, receive_buffer=4096)))
            with RawClient(address) as good:
                assert good.get("/").body == b"fine", kind


def client_hello() -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("part", [0, 1, 5, 100, -1, None])
def test_no_handshake_holds_a_thread(secure: tuple[Daemon, Authority], part: int | None) -> None:
    daemon, authority = secure
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(RawClient(("127.0.0.1", daemon.port)))
            client.send(client_hello()[:part])
            if part is None:
                assert client.sock.recv(1) == b"\x16", "ServerHello, and nothing after it"
        with (
            socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as plain,
            authority.client().wrap_socket(plain, server_hostname="localhost") as good,
        ):
            good.sendall((GET % "/").encode())
            assert good.recv(12) == b"HTTP/1.1 200"


def test_a_client_with_many_requests_waits_its_turn(daemon: Daemon) -> None:
    address = ("127.0.0.1", daemon.port)
    with RawClient(address) as greedy, RawClient(address) as good:
        before = int(good.get("/count").body)
        greedy.send((GET % "/slow" * 300).encode())
        assert greedy.response().status == 200
        assert int(good.get("/count").body) - before < 100
        for _ in range(299):
            assert greedy.response().status == 200


# -- deadlines ---------------------------------------------------------------------------------------------------------


class Drip:
    """A client that sends, or reads, one byte at a time."""

    def __init__(self, port: int, first: str | bytes, *, byte: bytes = b"", reads: bool = False) -> None:
        self.client = RawClient(("127.0.0.1", port), receive_buffer=4096)
        self.client.send(first.encode() if isinstance(first, str) else first)
        self.client.sock.setblocking(False)
        self.byte = byte
        self.reads = reads
        self.began = time.monotonic()
        self.ended = 0.0
        self.said = b""

    def go_on(self) -> None:
        """One byte more; see whether it is over."""
        if self.ended:
            return
        try:
            if self.byte:
                self.client.sock.send(self.byte)
            if self.reads:
                self.client.sock.recv(1)
                return
            data = self.client.sock.recv(4096)
            self.said += data
            if not data:
                self.ended = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self.ended = time.monotonic()


LIMIT: Final = 0.7
SHORT: Final = dict.fromkeys(("handshake", "head", "body", "keep_alive", "write"), f"{LIMIT}s")


def let_drip(child: int, before: int, drips: Mapping[str, Drip]) -> None:
    """Until the child has none of them left."""
    deadline = time.monotonic() + 20
    while sockets(child) > before or any(not (drip.ended or drip.reads) for drip in drips.values()):
        assert time.monotonic() < deadline, [name for name, drip in drips.items() if not drip.ended]
        for drip in drips.values():
            drip.go_on()
        select.select([], [], [], 0.05)  # what makes it slow


@pytest.mark.parametrize("mode", ["sync", "async", "wsgi"])
def test_who_drips_is_cut_off_at_the_deadline(tmp_path: Path, mode: str) -> None:
    wsgi = mode == "wsgi"
    config = configuration("sync" if wsgi else mode, **SHORT) | {
        "websocket": {"ping_interval": "300ms", "ping_timeout": "400ms"}
    }
    with Daemon(tmp_path, app=WSGI if wsgi else APP, config=config) as daemon:
        port = daemon.wait_ready().port
        (child,) = daemon.workers()
        with RawClient(("127.0.0.1", port)) as warm:
            before = sockets(child)
            warm.get("/")
        old = (GET % "%s").replace("1.1", "1.0")
        drips = {
            "head": Drip(port, "GET / HTTP/1.1\r\nX: ", byte=b"x"),
            "first line": Drip(port, "GET /", byte=b"x"),
            "old head": Drip(port, "GET / HTTP/1.0\r\nX: ", byte=b"x"),
            "small body": Drip(port, POST % ("/", 900), byte=b"x"),
            "body": Drip(port, POST % ("/body", 100_000) + "x" * 2000, byte=b"x"),
            "old body": Drip(port, (POST % ("/body", 100_000)).replace("1.1", "1.0") + "x" * 2000, byte=b"x"),
            "chunks": Drip(
                port,
                "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + "x" * 2000,
                byte=b"x",
            ),
            "silent": Drip(port, ""),
            "idle": Drip(port, GET % "/"),
            "stream": Drip(port, GET % "/stream", reads=True),
            "old stream": Drip(port, old % "/stream", reads=True),
            "requests": Drip(port, GET % "/stream" * 100, byte=b"G", reads=True),
        }
        if not wsgi:
            drips |= {
                "bytes": Drip(port, GET % "/bytes", reads=True),
                "file": Drip(port, GET % "/file", reads=True),
                "half a frame": Drip(port, handshake() + frame(BINARY, bytes(60_000))[:30_000], byte=b"x"),
                "echoes": Drip(port, handshake() + frame(BINARY, bytes(60_000)) * 20, reads=True),
            }
        try:
            let_drip(child, before, drips)
            with RawClient(("127.0.0.1", port)) as good:
                assert good.get("/").body == b"fine"
        finally:
            for drip in drips.values():
                drip.client.sock.close()
        answers = {name: drip.said[9:12] for name, drip in drips.items() if drip.said}
        timely = ("head", "first line", "old head", "small body", "body", "old body", "chunks")
        assert {name: answers[name] for name in timely} == dict.fromkeys(timely, b"408")
        assert (answers.get("silent"), answers["idle"]) == (None, b"200")
        assert wsgi or answers["half a frame"] == b"101"
        early = {name: drip.ended - drip.began for name, drip in drips.items() if drip.ended}
        assert all(seconds > 0.9 * LIMIT for seconds in early.values()), early
        assert daemon.count(NOISE) == 0


def test_a_handshake_that_drips_is_cut_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config = configuration("sync", **SHORT) | {"tls": authority.issue("localhost").config()}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        port = daemon.wait_ready().port
        (child,) = daemon.workers()
        before = sockets(child)
        hello = client_hello()
        drips = {
            "hello": Drip(port, hello[:-100], byte=b"\0"),
            "silent": Drip(port, b""),
            "finished": Drip(port, hello + b"\x17\x03\x03\x00\x40", byte=b"\0"),
        }
        let_drip(child, before, drips)
        for drip in drips.values():
            assert drip.ended - drip.began > 0.9 * LIMIT
            drip.client.sock.close()
        assert daemon.count(NOISE) == 0


# -- resets ------------------------------------------------------------------------------------------------------------


def reset(client: RawClient) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


def test_resets_at_every_byte_leave_no_trace(daemon: Daemon) -> None:
    (child,) = daemon.workers()
    address = ("127.0.0.1", daemon.port)
    with RawClient(address) as good:
        good.get("/")
        before, descriptors = sockets(child), len(os.listdir(f"/proc/{child}/fd"))
        requests = [
            (GET % "/stream").encode(),
            (POST % ("/body", 20) + "x" * 20).encode(),
            (POST % ("/body", 2000) + "x" * 1990).encode()[:1200],
            handshake() + frame(BINARY, b"hello"),
        ]
        for request in requests:
            for size in range(0, len(request) + 1, 1 if len(request) < 300 else 13):
                client = RawClient(address)
                client.send(request[:size])
                reset(client)
        for path in ("/bytes", "/stream", "/file"):
            for taken in range(40):
                client = RawClient(address, receive_buffer=4096)
                client.send((GET % path).encode())
                client.sock.recv(1 + taken * 500)
                reset(client)
        wait_until(lambda: sockets(child) == before, "all connections are closed")
        wait_until(lambda: len(os.listdir(f"/proc/{child}/fd")) <= descriptors, "all files are closed")
        assert good.get("/").body == b"fine"
    assert daemon.count(NOISE) == 0, [line for line in daemon.lines if re.search(NOISE, line)]


def test_resets_in_a_handshake_leave_no_trace(secure: tuple[Daemon, Authority]) -> None:
    daemon, _ = secure
    (child,) = daemon.workers()
    hello = client_hello()
    before = sockets(child)
    for size in range(0, len(hello) + 1, 7):
        client = RawClient(("127.0.0.1", daemon.port))
        client.send(hello[:size])
        reset(client)
    wait_until(lambda: sockets(child) <= before, "all connections are closed")
    assert daemon.count(NOISE) == 0
