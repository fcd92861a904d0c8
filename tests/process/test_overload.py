"""More requests than threads: threads come when they are blocked, and a queue that stands is cut. In real daemons."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ..support.client import RawClient, Response
from ..support.daemon import Daemon, wait_until

# /meet answers when eight requests run at the same time; /0.05 holds its thread (or its event loop) for so long, as
# /hold does, which says so; /spin computes for 20 ms.
APP = """
import threading, time

party = threading.Barrier(8)

async def app(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"][1:]
    if path == "meet":
        party.wait(15)
    elif path == "hold":
        print("held", flush=True)
        time.sleep(0.6)
    elif path == "spin":
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
    else:
        time.sleep(float(path))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def ask(client: RawClient, path: str) -> None:
    client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_threads_come_while_those_that_are_there_are_blocked(tmp_path: Path) -> None:
    """Eight requests that wait for each other: with fewer threads none would ever be answered."""
    config = {"workers": {"processes": 1, "threads": {"min": 1, "max": 8}}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        daemon.wait_for_line("1 process × 1 thread")
        clients = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(8)]
        (child,) = daemon.workers()
        before = threads_of(child)
        for client in clients:
            ask(client, "/meet")
        assert [client.response().status for client in clients] == [200] * 8
        assert threads_of(child) == before + 7
        daemon.wait_for_line(r"8 threads, \d more: requests waited \d+ ms")


def test_threads_that_compute_get_no_company(tmp_path: Path) -> None:
    config = {"workers": {"processes": 1, "threads": {"min": 4, "max": 32}}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        over = time.monotonic() + 1.5
        waits: list[float] = []

        def load() -> None:
            with RawClient(("127.0.0.1", daemon.port)) as client:
                while (began := time.monotonic()) < over:
                    assert client.get("/spin").status == 200
                    waits.append(time.monotonic() - began)

        clients = [threading.Thread(target=load) for _ in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert sorted(waits)[len(waits) // 2] > 0.06, "the requests did not wait"
        assert not daemon.count("threads, .* more"), daemon.log


# How the child is reached, and how it serves.
WAYS: dict[str, Any] = {
    "threads": {"workers": {"processes": 1, "threads": 1}},
    "event loop": {"workers": {"processes": 1, "mode": "async"}},
    "unix socket": {"workers": {"processes": 1, "threads": 1}, "listen": ["unix:app.sock"]},
}


def overload(
    daemon: Daemon, stack: contextlib.ExitStack, path: str, *, new: bool
) -> list[tuple[RawClient, Response]]:
    """14 clients and what they get, in the order of their requests, which come while all is held for 0.6 s.

    ``new``: on connections that wait to be accepted; else on such that have served a request."""
    unix = daemon.folder / "app.sock"
    address: Any = str(unix) if unix.exists() else ("127.0.0.1", daemon.port)

    def connect() -> list[RawClient]:
        return [stack.enter_context(RawClient(address)) for _ in range(14)]

    clients = [] if new else connect()
    for client in clients:
        assert client.get("/0").status == 200
    (holder, *_) = connect()
    mark = daemon.mark()
    ask(holder, "/hold")
    daemon.wait_for_line("^held$", after=mark)
    clients = connect() if new else clients
    for client in clients:
        ask(client, path)
    assert holder.response().status == 200
    return [(client, client.response()) for client in clients]


@pytest.mark.parametrize("new", [True, False], ids=["new connections", "open connections"])
@pytest.mark.parametrize("way", WAYS)
def test_a_queue_that_stands_is_cut(tmp_path: Path, way: str, new: bool) -> None:
    """All have waited longer than the limit. The first ones are served all the same, as it may be a burst."""
    config = {**WAYS[way], "limits": {"queue_wait": "200ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        answers = overload(daemon, stack, "/0.04", new=new)
        statuses = [response.status for _, response in answers]
        served = statuses.count(200)
        assert 2 <= served <= 8, statuses
        assert statuses == [200] * served + [503] * (14 - served)
        client, refused = answers[-1]
        assert refused.header("retry-after") == "1"
        assert refused.header("connection") is None
        assert b"overloaded" in refused.body
        daemon.wait_for_line(r"overload: requests wait 0\.\d+ s, longer than limits\.queue_wait \(0\.2 s\)")
        daemon.wait_for_line(r'"GET /0\.04 HTTP/1\.1" 503 ')
        assert client.get("/0").status == 200  # on the same connection


@pytest.mark.parametrize("way", WAYS)
def test_a_burst_is_served(tmp_path: Path, way: str) -> None:
    """All have waited longer than the limit, and are gone in a moment."""
    config = {**WAYS[way], "limits": {"queue_wait": "200ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        assert [response.status for _, response in overload(daemon, stack, "/0", new=True)] == [200] * 14


def test_a_quiet_child_looks_at_nothing(tmp_path: Path) -> None:
    config = {"workers": {"processes": 1, "threads": {"min": 1, "max": 8}}, "limits": {"queue_wait": "200ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        (child,) = daemon.workers()

        def turns() -> int:
            status = Path(f"/proc/{child}/task/{child}/status").read_text()
            (line,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
            return int(line)

        def stands_still() -> bool:
            before = turns()
            threading.Event().wait(0.3)
            return turns() == before

        client = stack.enter_context(RawClient(("127.0.0.1", daemon.port)))
        for _ in range(2):
            wait_until(stands_still, "a child that does nothing")
            before = turns()
            assert client.get("/0").status == 200
            wait_until(lambda before=before: turns() > before, "the main thread was woken")  # type: ignore[misc]
