"""Reload, drain, crash and the loss of the master, under load: what the clients see."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.client import RawClient
from ..support.daemon import Daemon, wait_until
from ..support.load import Load

# Answers with the number of its process after a while, so that a request is always in flight on each connection.
WAITING = """
import asyncio, os, random

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    if scope["path"] != "/now":
        await asyncio.sleep(random.uniform(0.1, 0.4))
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

# Blocks its thread.
BLOCKING = """
import os, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    time.sleep(0.002)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

both_modes = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.mark.parametrize(
    ("start_method", "mode", "reloads"),
    [("fork", "sync", 20), ("spawn", "sync", 5), ("fork", "async", 10)],
)
def test_a_thousand_requests_in_flight_across_twenty_reloads(
    tmp_path: Path, start_method: str, mode: str, reloads: int
) -> None:
    config = {
        "workers": {"processes": 2, "threads": 2, "start_method": start_method, "mode": mode},
        "logging": {"access": False, "level": "info"},
    }
    with Daemon(tmp_path, app=WAITING, config=config) as daemon:
        daemon.wait_ready()
        with Load(daemon.port, clients=1000) as load:
            load.wait_for(1000)
            for number in range(2, reloads + 2):
                daemon.signal(signal.SIGHUP)
                daemon.wait_for_line(rf"generation {number} ready")
                load.wait_for(200)
            totals = load.stop()
        assert totals.failures == []
        assert totals.answered > 1000 + 200 * reloads
        assert len(totals.bodies) == 2 * (reloads + 1), "each generation's two children have answered"
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


@both_modes
def test_blocking_handlers_across_reloads_on_file_changes(tmp_path: Path, mode: str) -> None:
    workers = {"processes": 1, "threads": 4, "mode": mode}
    config = {"workers": workers, "logging": {"access": False, "level": "info"}}
    with Daemon(tmp_path, app=BLOCKING, config=config, args=["--reload"]) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line("watching")
        with Load(daemon.port, clients=32) as load:
            for number in range(2, 7):
                load.wait_for(200)
                daemon.write_app(BLOCKING + f"\n# {number}\n")
                daemon.wait_for_line(rf"generation {number} ready")
            load.wait_for(200)
            totals = load.stop()
        assert totals.failures == []
        assert len(totals.bodies) == 6


@both_modes
def test_term_answers_what_was_received_and_exits_0(tmp_path: Path, mode: str) -> None:
    slow = WAITING.replace("random.uniform(0.1, 0.4)", "1")
    config = {"workers": {"processes": 1, "mode": mode}}
    with Daemon(tmp_path, app=slow, config=config) as daemon, _clients(daemon, 60) as clients:
        idle, busy = clients[:20], clients[20:]
        for client in idle:
            assert client.get("/now").status == 200
        for client in busy:
            client.send(GET)
        wait_until(lambda: _received(daemon.port) == 0, "all requests read by the server")
        daemon.signal(signal.SIGTERM)
        for client in busy:
            response = client.response()
            assert (response.status, response.header("connection")) == (200, "close")
            assert client.closed()
        for client in idle:
            assert client.closed()
        assert daemon.wait_exit() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", daemon.port))


@both_modes
def test_term_serves_what_waits_in_the_backlog(tmp_path: Path, mode: str) -> None:
    blocked = BLOCKING.replace("0.002", "0.3")
    config = {"workers": {"processes": 1, "threads": 1, "mode": mode}}
    with Daemon(tmp_path, app=blocked, config=config) as daemon, _clients(daemon, 5) as clients:
        for client in clients:
            client.send(GET)
        daemon.signal(signal.SIGTERM)
        assert [client.response().status for client in clients] == [200] * 5
        assert daemon.wait_exit() == 0


def test_the_graceful_time_ends_and_the_log_says_which_request_was_cut(tmp_path: Path) -> None:
    stuck = BLOCKING.replace("0.002", "600 if scope['path'] == '/stuck' else 0")
    with Daemon(tmp_path, app=stuck, config={"timeouts": {"graceful": "300ms"}}) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as client, RawClient(("127.0.0.1", daemon.port)) as other:
            client.send(b"GET /stuck?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: _received(daemon.port) == 0, "the request read by the server")
            assert other.get().status == 200
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_line(r"cut off.*GET /stuck \(")
            assert client.closed()
        assert daemon.wait_exit() == 0
        assert "secret" not in "\n".join(line for line in daemon.lines if "cut off" in line)


def test_a_killed_child_loses_only_its_own_requests(tmp_path: Path) -> None:
    config = {"workers": {"processes": 2, "threads": 2}, "logging": {"access": False, "level": "info"}}
    with Daemon(tmp_path, app=WAITING, config=config) as daemon:
        daemon.wait_ready()
        victim = daemon.workers()[0]
        with Load(daemon.port, clients=100) as load:
            load.wait_for(200)
            held = _connections(victim)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(daemon.workers()) == 2 and victim not in daemon.workers(), "a replacement")
            load.wait_for(400)
            totals = load.stop()
        assert 0 < held < 100
        # A connection that the victim accepted after it was counted is lost with it too.
        assert len(totals.failures) <= 100 - (100 - held) + 5, totals.failures[:5]
        daemon.wait_for_line("SIGKILL")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


@pytest.mark.parametrize(("start_method", "mode"), [("fork", "sync"), ("spawn", "sync"), ("fork", "async")])
def test_without_their_master_children_drain_and_free_the_port(
    tmp_path: Path, start_method: str, mode: str
) -> None:
    config = {"workers": {"processes": 2, "threads": 2, "start_method": start_method, "mode": mode}}
    with Daemon(tmp_path, app=WAITING, config=config) as daemon, _clients(daemon, 40) as clients:
        port, workers = daemon.port, daemon.workers()
        for client in clients:
            client.send(GET)
        wait_until(lambda: _received(port) == 0, "all requests read by the server")
        daemon.signal(signal.SIGKILL)
        assert [client.response().status for client in clients] == [200] * 40
        wait_until(lambda: not any(_alive(pid) for pid in workers), "the end of the children")
        with socket.create_server(("127.0.0.1", port)):
            pass


@contextlib.contextmanager
def _clients(daemon: Daemon, number: int) -> Iterator[list[RawClient]]:
    """So many connections to a daemon that serves."""
    daemon.wait_ready()
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(number)]


def _received(port: int) -> int:
    """Bytes that wait unread in the receive queues of the server's connections on ``port``, and in its backlog."""
    waiting = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            waiting += int(fields[4].partition(":")[2], 16)
    return waiting


def _connections(pid: int) -> int:
    """How many TCP connections process ``pid`` holds, by its descriptors."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for fields in lines if fields[9] in inodes and fields[3] == "01")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
