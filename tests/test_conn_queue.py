"""ConnectionQueue: what the child's main thread looks at and gives back is served all the same."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from serverd.config import ServerConfig, WorkersConfig
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.connection import SINCE, Connection
from serverd.server.deadlines import SETTLED
from serverd.server.phases import EDGE, Phase

from .support.apps import Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, Workers, serving

BASE = ServerConfig(app="test:app", workers=WorkersConfig(async_paths=("/live",)))


def close_idle(served: Workers) -> None:
    served.queue.close_idle()


def let_deadlines_pass(served: Workers) -> None:
    served.queue.tend(time.monotonic() + 1000, served.queue.close)


@pytest.mark.parametrize("look", [close_idle, let_deadlines_pass])
def test_a_request_that_waits_for_a_busy_thread_is_not_overlooked(look: Callable[[Workers], None]) -> None:
    """Its predecessor was the home loop's, so it is in the inbox, and the kernel knows nothing of it."""
    begun, blocked, go_on = threading.Event(), threading.Event(), threading.Event()

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/live":
            begun.set()
            await asyncio.to_thread(blocked.wait, 10)
        elif scope["path"] == "/block":
            blocked.set()
            go_on.wait(10)
        await reply(send, scope["path"].encode())

    def settled() -> bool:
        (conn,) = (conn for conn in served.queue.connections() if conn.inbox)
        return conn.phase == Phase.IDLE and conn.numbers[SINCE] < time.monotonic() - SETTLED

    with (
        serving(app, config=BASE, threads=1, home=True) as served,
        served.connect() as client,
        served.connect() as blocker,
    ):
        client.send(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert begun.wait(10)
        blocker.send(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().body == b"/live"
        wait_until(settled)
        look(served)
        go_on.set()
        client.sock.settimeout(5)
        assert client.response().body == b"/"
        assert blocker.response().body == b"/block"


@pytest.mark.parametrize("by", ENGINES)
def test_connections_that_are_looked_at_all_the_time_lose_no_event(by: str) -> None:
    """The main thread takes and gives back whatever it can get, more often than any drain would."""
    large = bytes(range(256)) * 16_384

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, large if scope["path"] == "/large" else b"small")

    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for conn in served.queue.connections():
                if conn.owned.acquire(False):
                    served.queue.give_back(conn)

    def ask(number: int) -> None:
        with served.connect() as client:
            for path, size in [("/large", len(large)), *[("/small", 5)] * (number + 2)] * 8:
                assert len(client.get(path).body) == size

    with serving(app, threads=2, by=by) as served:
        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        try:
            with ThreadPoolExecutor(6) as clients:
                list(clients.map(ask, range(6)))
        finally:
            over.set()
            looker.join(10)


def test_a_request_that_comes_while_somebody_looks_at_its_connection_is_served() -> None:
    """Its event comes once, and the worker that takes it finds that the connection has an owner."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, scope["path"].encode())

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get("/first").body == b"/first"
        (conn,) = served.queue.connections()
        wait_until(lambda: conn.phase == Phase.IDLE and not conn.owned.locked())
        assert conn.watched == EDGE
        assert conn.owned.acquire(False)
        client.send(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: conn.rearm)
        served.queue.give_back(conn)
        client.sock.settimeout(5)
        assert client.response().body == b"/second"


def test_what_no_event_tells_of_is_found_when_its_time_is_over() -> None:
    """An edge that was lost, however: the deadline of a connection that has something excuses it, and arms it."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, scope["path"].encode())

    with serving(app, threads=1) as served, served.connect() as client:
        client.get("/first")
        (conn,) = served.queue.connections()
        wait_until(lambda: conn.phase == Phase.IDLE and not conn.owned.locked())
        assert conn.owned.acquire(False)
        client.send(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: conn.rearm)
        conn.rearm = False
        conn.owned.release()
        served.queue.tend(time.monotonic() + 1000, served.queue.close)
        client.sock.settimeout(5)
        assert client.response().body == b"/second"


@pytest.mark.parametrize("requests", [1, 3])
def test_the_end_of_a_client_is_seen_when_it_came_with_its_last_request(requests: int) -> None:
    """One event tells of both, and what is read is the request."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"hi")

    with serving(app, threads=1) as served, served.connect() as client:
        for _ in range(requests - 1):
            client.get("/")
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"hi"
        client.sock.settimeout(2)  # far less than timeouts.keep_alive
        assert client.sock.recv(1) == b""
        wait_until(lambda: not served.queue.open)


def _blocking(
    blocked: threading.Semaphore, go_on: threading.Semaphore, over: threading.Event | None = None
) -> Callable[..., Any]:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/block":
            blocked.release()
            go_on.acquire(timeout=10)
        elif scope["path"] == "/wait" and over is not None:
            for _ in range(1000):
                if over.is_set():
                    break
                await asyncio.sleep(0.01)
        await reply(send, scope["path"].encode())

    return app


def _ask(clients: list[RawClient], *paths: str) -> None:
    for client, path in zip(clients, paths, strict=True):
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_what_is_ready_behind_a_slow_request_is_served_by_the_next_free_thread() -> None:
    """A thread that finds nobody idle takes several events at a time: no thread but it may know of them."""
    blocked, go_on = threading.Semaphore(0), threading.Semaphore(0)
    with ExitStack() as stack:
        served = stack.enter_context(serving(_blocking(blocked, go_on), threads=2))
        clients = [stack.enter_context(served.connect()) for _ in range(8)]
        for client in clients:
            client.get("/")
        _ask(clients[:2], "/block", "/block")
        for _ in range(2):
            assert blocked.acquire(timeout=10)
        _ask(clients[2:], "/block", "/a", "/b", "/c", "/d", "/e")
        conns = [conn for conn in served.queue.connections() if conn.phase == Phase.IDLE]
        wait_until(lambda: sum(conn.has_data() for conn in conns) == 6)
        go_on.release()  # one of the two: it meets the third
        assert blocked.acquire(timeout=10)
        go_on.release()
        for client, path in zip(clients[3:], "abcde", strict=True):
            client.sock.settimeout(5)
            assert client.response().body == b"/" + path.encode()
        go_on.release()
        go_on.release()


def test_what_is_ready_behind_a_request_that_waits_is_served_meanwhile() -> None:
    """The only thread took several events, and goes to wait in its own event loop."""
    blocked, go_on, over = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    with ExitStack() as stack:
        served = stack.enter_context(serving(_blocking(blocked, go_on, over), threads=1))
        clients = [stack.enter_context(served.connect()) for _ in range(6)]
        for client in clients:
            client.get("/")
        _ask(clients[:1], "/block")
        assert blocked.acquire(timeout=10)
        _ask(clients[1:], "/wait", "/a", "/b", "/c", "/d")
        conns = [conn for conn in served.queue.connections() if conn.phase == Phase.IDLE]
        wait_until(lambda: sum(conn.has_data() for conn in conns) == 5)
        go_on.release()
        for client, path in zip(clients[2:], "abcd", strict=True):
            client.sock.settimeout(5)
            assert client.response().body == b"/" + path.encode()
        over.set()
        assert clients[1].response().body == b"/wait"


def test_a_unix_listener_may_close_as_its_last_connection_is_accepted(tmp_path: Path) -> None:
    class Closing(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            accepted = super().accept()
            self.close()
            return accepted

    path = str(tmp_path / "socket")
    listener = Closing(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    queue = ConnectionQueue()
    queue.add_listener(listener)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        conn = queue.get(5)
        assert conn is not None
        assert conn.local == (path, None)
        queue.close(conn)
    queue.release()


def test_a_drain_waits_for_who_has_been_accepted_and_is_not_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = ConnectionQueue()
    listener = socket.create_server(("127.0.0.1", 0))
    queue.add_listener(listener)
    accepted, go_on = threading.Event(), threading.Event()
    enter = queue._connections.accepted

    def slowly(sock: socket.socket, address: object) -> Connection | None:
        accepted.set()
        assert go_on.wait(10)
        return enter(sock, address)

    monkeypatch.setattr(queue._connections, "accepted", slowly)
    found: list[Connection | None] = []
    thread = threading.Thread(target=lambda: found.append(queue.get(10)))
    with socket.create_connection(listener.getsockname()):
        thread.start()
        assert accepted.wait(10)
        queue.stop_accepting(take_backlog=False)
        assert not queue.open
        assert not queue.deserted
        go_on.set()
        thread.join()
        assert found[0] is not None
        assert not queue.deserted
        queue.close(found[0])
        assert queue.deserted
    queue.release()
