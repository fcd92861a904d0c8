"""Each limit of the YAML at the limit and one beyond, with a real daemon: what docs/limits.md says."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..support.client import RawClient
from ..support.daemon import Daemon, sockets, wait_until

# Each says in a file that it was called, and answers with what it has read; /hold when there is a file `release`.
ASGI = """
import asyncio
from pathlib import Path

HERE = Path(__file__).parent

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    (HERE / "called").touch()
    while scope["path"] == "/hold" and not (HERE / "release").exists():
        await asyncio.sleep(0.01)
    size, message = 0, await receive()
    while True:
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
        message = await receive()
    if message["type"] == "http.disconnect":
        (HERE / "disconnected").touch()
        return
    body = b"x" * 30_000_000 if scope["path"] == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def app(environ, start_response):
    (HERE / "called").touch()
    while environ["PATH_INFO"] == "/hold" and not (HERE / "release").exists():
        time.sleep(0.01)
    try:
        size = len(environ["wsgi.input"].read())
    except OSError:
        (HERE / "disconnected").touch()
        raise
    body = b"x" * 30_000_000 if environ["PATH_INFO"] == "/large" else str(size).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
APPS = pytest.mark.parametrize("app", [ASGI, WSGI], ids=["asgi", "wsgi"])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(stack: ExitStack, daemon: Daemon, source: str = "127.0.0.1", **options: Any) -> RawClient:
    """A client with the address ``source``."""
    client = RawClient(("127.0.0.1", daemon.port), source=source, **options)
    return stack.enter_context(client)


def ask(daemon: Daemon, data: bytes) -> int:
    """The status that the bytes are answered with, on a connection of their own."""
    with RawClient(("127.0.0.1", daemon.port)) as client:
        client.send(data)
        return client.response().status


def request(target_size: int = 1, head_size: int = 0, fields: int = 1) -> bytes:
    """A request with a line, a head and a number of fields of exactly these sizes (0: as it comes)."""
    lines = [b"GET /".ljust(target_size - len(" HTTP/1.1"), b"a") + b" HTTP/1.1", b"Host: x"]
    lines += [b"A: b"] * (fields - 1)
    if head_size:
        lines[-1] += b" " * (head_size - len(b"\r\n".join([*lines, b"", b""])))
    return b"\r\n".join([*lines, b"", b""])


def chunked(size: int, *, fields: str = "") -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{fields}\r\n".encode()
    return head + b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"


def test_the_head_at_its_limits_and_one_byte_or_field_beyond(tmp_path: Path) -> None:
    limits = {"line": 200, "head": 1024, "headers": 10}
    with Daemon(tmp_path, app=ASGI, config={"limits": limits}) as daemon:
        daemon.wait_ready()
        assert [ask(daemon, request(target_size=size)) for size in (200, 201)] == [200, 414]
        assert [ask(daemon, request(head_size=size)) for size in (1024, 1025)] == [200, 431]
        assert [ask(daemon, request(fields=number)) for number in (10, 11)] == [200, 431]


@APPS
def test_a_body_at_its_limit_and_one_byte_beyond(tmp_path: Path, app: str) -> None:
    limits = {"body": 3000, "buffered_body": 2000}  # what is beyond 2000 bytes is read by the application
    with Daemon(tmp_path, app=app, config={"limits": limits}) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.post("/", b"x" * 3000).body == b"3000"
            client.send(chunked(3000))
            assert client.response().body == b"3000"
            (tmp_path / "called").unlink()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3001\r\n"
        assert ask(daemon, head + b"\r\n") == 413, "and nothing of the body had to be sent"
        assert ask(daemon, head + b"Expect: 100-continue\r\n\r\n") == 413, "and no 100 before it"
        assert not (tmp_path / "called").exists(), "nor was the application called"
        daemon.wait_for_line('"POST / HTTP/1.1" 413 ')
        assert ask(daemon, chunked(3001)) == 413
        assert not (tmp_path / "called").exists()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            client.send(chunked(2500).removesuffix(b"0\r\n\r\n"))
            wait_until((tmp_path / "called").exists, "the application reads what has come")
            client.send(b"1f5\r\n" + b"x" * 501)
            assert client.response().status == 413
            wait_until((tmp_path / "disconnected").exists, "the application hears of it")
        with RawClient(("127.0.0.1", daemon.port)) as client:
            client.send(
                chunked(3000, fields="Expect: 100-continue\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            )
            assert client.response().status == 100
            client.send(b"bb9\r\n" + b"x" * 3001)
            assert client.response().status == 413


@APPS
def test_a_body_without_a_limit(tmp_path: Path, app: str) -> None:
    with Daemon(tmp_path, app=app) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client:
            assert client.post("/", b"x" * 5_000_000).body == b"5000000"


@APPS
def test_the_application_is_called_when_the_body_is_whole_or_fills_its_buffer(
    tmp_path: Path, app: str
) -> None:
    config = {"limits": {"buffered_body": 2000}}
    with Daemon(tmp_path, app=app, config=config) as daemon, ExitStack() as stack:
        daemon.wait_ready()
        whole, large = connect(stack, daemon), connect(stack, daemon)
        whole.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1999)
        with RawClient(("127.0.0.1", daemon.port)) as other:  # it was sent later, and is answered
            assert other.get().status == 200
        (tmp_path / "called").unlink()
        large.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"x" * 1999)
        with RawClient(("127.0.0.1", daemon.port)) as other:
            assert other.get().status == 200
        (tmp_path / "called").unlink()
        large.send(b"x")
        wait_until((tmp_path / "called").exists, "it is called: its buffer is full")
        (tmp_path / "called").unlink()
        whole.send(b"x")
        assert whole.response().body == b"2000"
        large.send(b"x" * 7000)
        assert large.response().body == b"9000"


def test_timeouts_of_clients_that_say_or_read_nothing(tmp_path: Path) -> None:
    timeouts = {"keep_alive": "200ms", "head": "300ms", "write": "500ms"}
    with Daemon(tmp_path, app=ASGI, config={"timeouts": timeouts}) as daemon, ExitStack() as stack:
        daemon.wait_ready()
        (child,) = daemon.workers()
        before = sockets(child)
        idle, silent = connect(stack, daemon), connect(stack, daemon)
        deaf = connect(stack, daemon, receive_buffer=4096)
        deaf.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.get().status == 200
        assert idle.closed()
        assert silent.closed(), "nothing has come, so nothing is answered"
        daemon.wait_for_line(r'"GET /large HTTP/1.1" 200')  # it is complete for us, and waits to be taken
        wait_until(lambda: sockets(child) == before, "all three are gone")
        assert len(deaf.rest()) < 30_000_000, "a part of it, and then the end"


def test_full_the_longest_idle_connection_goes_for_a_new_one(tmp_path: Path, stack: ExitStack) -> None:
    config = {"limits": {"connections": 300}, "admin": {"listen": "127.0.0.1:0"}}
    daemon = stack.enter_context(Daemon(tmp_path, app=ASGI, config=config)).wait_ready()
    clients = [connect(stack, daemon) for _ in range(300)]
    for client in clients:
        assert client.get().status == 200
    for _ in range(40):
        assert connect(stack, daemon).get().status == 200
    assert all(client.closed() for client in clients[:39])
    assert clients[-1].get().status == 200, "who was used last is still there"
    daemon.wait_for_line(
        "300 connections are open, as many as limits.connections allows: idle ones are closed for new ones"
    )
    wait_until(lambda: metric(daemon, "serverd_connections_seen_off_total") == 40, "it is counted")


def test_full_of_busy_connections_who_comes_waits_in_the_backlog(tmp_path: Path, stack: ExitStack) -> None:
    daemon = stack.enter_context(
        Daemon(tmp_path, app=ASGI, config={"limits": {"connections": 3}})
    ).wait_ready()
    busy = [connect(stack, daemon) for _ in range(3)]
    for client in busy:
        client.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until((tmp_path / "called").exists)
    waiting = connect(stack, daemon)
    waiting.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    waiting.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        waiting.response()
    waiting.sock.settimeout(20)
    (tmp_path / "release").touch()
    assert [client.response().status for client in busy] == [200] * 3
    assert waiting.response().status == 200


def metric(daemon: Daemon, name: str) -> float:
    """From the admin plane."""
    port = int(daemon.wait_for_line(r"admin plane is at http://\S+:(\d+)")[1])
    with RawClient(("127.0.0.1", port)) as client:
        client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = client.response().body.decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def refused(client: RawClient) -> bool:
    """Whether the server has closed it without a word."""
    try:
        return client.closed()
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_so_many_connections_of_one_address_and_no_more(tmp_path: Path, stack: ExitStack, mode: str) -> None:
    config: dict[str, Any] = {"limits": {"connections_per_address": 3}, "workers": {"mode": mode}}
    config["admin"] = {"listen": "127.0.0.1:0"}
    daemon = stack.enter_context(Daemon(tmp_path, app=ASGI, config=config)).wait_ready()
    first = [connect(stack, daemon, "127.0.0.2") for _ in range(3)]
    assert [client.get().status for client in first] == [200] * 3
    assert refused(connect(stack, daemon, "127.0.0.2"))
    daemon.wait_for_line(
        "127.0.0.2 has 3 open connections, and limits.connections_per_address allows no more"
    )
    assert [connect(stack, daemon, "127.0.0.3").get().status for _ in range(3)] == [200] * 3, "another client"
    assert [connect(stack, daemon).get().status for _ in range(9)] == [200] * 9, "a trusted proxy"
    assert [client.get().status for client in first] == [200] * 3, "who was there is served on"
    first[0].half_close()
    assert first[0].closed()
    assert connect(stack, daemon, "127.0.0.2").get().status == 200, "its place is free again"
    assert metric(daemon, "serverd_connections_refused_total") == 1


def test_many_who_come_at_once_get_exactly_as_many_places(tmp_path: Path, stack: ExitStack) -> None:
    config = {"limits": {"connections_per_address": 5}, "workers": {"threads": 8}}
    daemon = stack.enter_context(Daemon(tmp_path, app=ASGI, config=config)).wait_ready()
    for _ in range(3):
        clients: list[RawClient] = []
        served: list[RawClient] = []
        begin = threading.Barrier(30)

        def client(clients: list[RawClient], served: list[RawClient], begin: threading.Barrier) -> None:
            begin.wait(20)
            one = RawClient(("127.0.0.1", daemon.port), source="127.0.0.2")
            clients.append(one)
            try:
                if one.get().status == 200:
                    served.append(one)
            except EOFError, OSError, IndexError:
                pass

        threads = [threading.Thread(target=client, args=(clients, served, begin)) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(served) == 5
        for one in clients:
            with contextlib.suppress(OSError):
                one.half_close()
        for one in served:
            assert one.closed()
        for one in clients:
            one.sock.close()


def test_what_another_child_hands_over_counts_in_the_new_one(tmp_path: Path, stack: ExitStack) -> None:
    config = {"limits": {"connections_per_address": 3}}
    daemon = stack.enter_context(Daemon(tmp_path, app=ASGI, config=config)).wait_ready()
    clients = [connect(stack, daemon, "127.0.0.2") for _ in range(3)]
    assert [client.get().status for client in clients] == [200] * 3
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line(r"worker 0 g1 \(pid \d+\) exited with status 0")
    daemon.wait_for_line("handed 3 idle connections over")
    assert refused(connect(stack, daemon, "127.0.0.2"))
    assert [client.get().status for client in clients] == [200] * 3
    clients[0].half_close()
    assert clients[0].closed()
    assert connect(stack, daemon, "127.0.0.2").get().status == 200


def test_whom_the_proxy_protocol_names_counts(tmp_path: Path, stack: ExitStack) -> None:
    config = {"limits": {"connections_per_address": 1}, "proxy": {"protocol": True}}
    daemon = stack.enter_context(Daemon(tmp_path, app=ASGI, config=config)).wait_ready()

    def named(address: str) -> RawClient:
        client = connect(stack, daemon)
        client.send(f"PROXY TCP4 {address} 198.51.100.1 4711 80\r\n".encode())
        return client

    first = named("192.0.2.1")
    assert first.get().status == 200
    second = named("192.0.2.1")
    second.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert refused(second)
    daemon.wait_for_line("192.0.2.1 has 1 open connections")
    assert named("192.0.2.2").get().status == 200
    first.half_close()
    assert first.closed()
    assert named("192.0.2.1").get().status == 200


def test_the_listener_has_the_backlog_and_a_smaller_one_of_the_kernel_is_said(tmp_path: Path) -> None:
    longest = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = {"listen": [f"fd://{listener.fileno()}"], "limits": {"backlog": 77}}
        with Daemon(tmp_path, app=ASGI, config=config, pass_fds=[listener.fileno()]) as daemon:
            daemon.wait_ready()
            assert _backlog(listener) == 77
            assert daemon.count("limits.backlog") == 0
            if longest == 65_535:
                return
            daemon.write_config({**config, "limits": {"backlog": 65_535}})
            daemon.signal(signal.SIGHUP)
            daemon.wait_for_line("generation 2 ready")
            assert _backlog(listener) == longest
            daemon.wait_for_line(
                rf"limits.backlog is 65535, and the kernel allows {longest}: raise net.core.somaxconn"
            )


def _backlog(listener: socket.socket) -> int:
    """tcp_info.tcpi_sacked, which for a listening socket is its longest backlog (net/ipv4/tcp.c, tcp_get_info)."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[28:32], "little")
