"""Requests that hang in real children: the log says where, lost threads cost one child and no service."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_until

APP = """
import asyncio, os, threading, time

release = threading.Event()

def deep():
    release.wait(60)

async def patient():
    for _ in range(6000):
        if release.is_set():
            return
        await asyncio.sleep(0.01)

tasks = []

async def behind():
    await asyncio.sleep(0.05)
    deep()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    if path == "/block":
        deep()
    elif path == "/late":
        await asyncio.sleep(0.01)
        deep()
    elif path == "/wait":
        await patient()
    elif path == "/stream":
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True})
        await patient()
        await send({"type": "http.response.body"})
        return
    elif path == "/leave-behind":
        tasks.append(asyncio.create_task(behind()))
    elif path == "/release":
        release.set()
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@contextmanager
def asking(daemon: Daemon, *requests: str) -> Iterator[list[RawClient]]:
    """Clients that have sent their requests and wait."""
    with ExitStack() as opened:
        clients = []
        for request in requests:
            client = opened.enter_context(RawClient(("127.0.0.1", daemon.port)))
            clients.append(client)
            path, _, more = request.partition(" ")
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
        yield clients


def get(daemon: Daemon, path: str) -> bytes:
    with RawClient(("127.0.0.1", daemon.port)) as client:
        return client.get(path, headers="Connection: close\r\n").body


def served_by_another(daemon: Daemon, pid: int) -> int:
    """The child that answers when `pid` does not any more."""

    def look() -> int:
        with RawClient(("127.0.0.1", daemon.port)) as client:
            client.sock.settimeout(0.5)
            try:
                found = int(client.get("/").body)
            except OSError, EOFError:
                return 0
        return found if found != pid else 0

    return wait_until(look, "another child answers")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_slow_request_is_named_once_with_the_stack_of_its_thread(tmp_path: Path, mode: str) -> None:
    config = {"timeouts": {"request": "200ms"}, "workers": {"mode": mode}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        with asking(daemon, "/block?secret"):
            thread = "serverd-worker-." if mode == "sync" else "serverd-home"
            daemon.wait_for_line(
                rf" warning .*GET /block \(0\.\d s\) takes longer than timeouts.request \(0.2 s\); "
                rf"it holds the thread {thread} \(\d+\) at$"
            )
            daemon.wait_for_line(r"demo\.py:\d+ in deep")
            daemon.wait_for_line(r"release\.wait\(60\)")
            if mode == "sync":  # nothing is done to it, and it is not named again
                with asking(daemon, "/wait"):
                    daemon.wait_for_line(r"GET /wait .*takes longer")
                    assert daemon.count("GET /block .*takes longer") == 1
                    get(daemon, "/release")


def test_a_request_that_waits_is_named_with_the_stack_of_its_coroutine(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=APP, config={"timeouts": {"request": "200ms"}}) as daemon:
        daemon.wait_ready()
        with asking(daemon, "/stream Accept: text/event-stream\r\n", "/wait") as (_, client):
            daemon.wait_for_line(
                r"GET /wait \(0\.\d s\) takes longer than .*; it waits in its event loop at$"
            )
            daemon.wait_for_line(r"demo\.py:\d+ in patient")
            get(daemon, "/release")
            assert client.response().status == 200
        assert daemon.count("GET /stream .*takes longer") == 0  # it is meant to last


def test_a_child_that_has_lost_all_threads_is_found_and_replaced(tmp_path: Path) -> None:
    config = {"timeouts": {"stuck": "500ms", "graceful": "20s"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (sick,) = daemon.workers()
        began = time.monotonic()
        with asking(daemon, "/block", "/block"):
            line = rf" error .*worker 0 g1 \(pid {sick}\) has lost [12] threads?: it is replaced"
            daemon.wait_for_line(line)
            assert time.monotonic() - began < 0.5 + 2
            daemon.wait_for_line(
                r"worker 0 g1: thread \d+ is held by GET /block for 0\.\d s \(timeouts.stuck: 0.5 s\)"
            )
            assert served_by_another(daemon, sick)
            # Only lost threads are left in it: nobody waits for timeouts.graceful.
            daemon.wait_for_line(r" warning .*cut off .*: GET /block")
            wait_until(lambda: sick not in daemon.workers(), "the sick child is gone")
            assert time.monotonic() - began < 10


def test_one_lost_thread_lets_the_others_finish_first(tmp_path: Path) -> None:
    config = {"timeouts": {"stuck": "400ms", "graceful": "20s"}, "workers": {"threads": 3}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (sick,) = daemon.workers()
        with asking(daemon, "/block"):
            daemon.wait_for_line(r"has lost 1 thread: it is replaced")
            other = served_by_another(daemon, sick)
            wait_until(lambda: sick not in daemon.workers(), "the sick child is gone")
            assert daemon.workers() == [other]
        assert daemon.count("it is replaced") == 1


@pytest.mark.parametrize("path", ["/block", "/late"])
def test_a_blocked_event_loop_is_a_lost_thread(tmp_path: Path, path: str) -> None:
    config = {"timeouts": {"stuck": "500ms"}, "workers": {"mode": "async"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (sick,) = daemon.workers()
        with asking(daemon, path):
            daemon.wait_for_line(r"worker 0 g1 .* has lost 1 thread: it is replaced")
            daemon.wait_for_line(r"demo\.py:\d+ in deep")
            assert served_by_another(daemon, sick)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_loop_that_is_blocked_when_no_request_is_under_way_is_found_too(tmp_path: Path, mode: str) -> None:
    config = {"timeouts": {"stuck": "1s"}, "workers": {"mode": mode}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (sick,) = daemon.workers()
        assert int(get(daemon, "/leave-behind")) == sick
        daemon.wait_for_line(r"stands still for 1\.\d s, and 0 requests wait in it; it is at$")
        daemon.wait_for_line(r"demo\.py:\d+ in deep")
        daemon.wait_for_line(r"worker 0 g1 .* has lost 1 thread: it is replaced")
        assert served_by_another(daemon, sick)


def test_idle_threads_are_not_taken_for_lost(tmp_path: Path) -> None:
    """A worker whose last request had waited in its loop blocks in the queue after it, and its loop does not turn."""
    config = {"timeouts": {"stuck": "300ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        with asking(daemon, "/wait", "/wait") as clients:
            daemon.wait_for_line(r"GET /wait .* takes longer")
            get(daemon, "/release")
            assert [client.response().status for client in clients] == [200] * 2
            # Nothing must happen for several times the limit and the second between two questions.
            with pytest.raises(AssertionError, match="after 2 s"):
                daemon.wait_for_line("stands still|is replaced", 2.0)


def test_requests_that_wait_lose_no_thread(tmp_path: Path) -> None:
    config = {"timeouts": {"stuck": "300ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        with asking(daemon, *["/wait"] * 5) as clients:
            daemon.wait_for_line(r"GET /wait .* takes longer than timeouts.stuck")
            wait_until(lambda: daemon.count("GET /wait .* takes longer") == 5)
            get(daemon, "/release")
            assert [client.response().status for client in clients] == [200] * 5
        assert daemon.count("it is replaced") == 0


def test_a_child_that_does_not_move_at_all_is_replaced_and_killed(tmp_path: Path) -> None:
    config = {"timeouts": {"stuck": "500ms", "graceful": "1s"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        (sick,) = daemon.workers()
        os.kill(sick, signal.SIGSTOP)
        daemon.wait_for_line(rf"worker 0 g1 \(pid {sick}\) does not move: it is replaced")
        assert served_by_another(daemon, sick)
        daemon.wait_for_line(rf"pid {sick}\) has not drained in time: cutting it off")


def test_a_pause_of_the_whole_service_costs_no_child_and_no_request(tmp_path: Path) -> None:
    config = {"timeouts": {"stuck": "2s"}, "workers": {"threads": 2}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        processes = [daemon.pid, *daemon.workers()]
        with asking(daemon, "/block") as (client,):
            get(daemon, "/")  # the other thread
            for pid in processes:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(3.5)  # the pause itself
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
            daemon.wait_for_line(
                r" warning .*this process could not run for \d\.\d s, nor could its children"
            )
            get(daemon, "/release")
            assert int(client.response().body) == processes[1]
        assert daemon.workers() == processes[1:]
        assert daemon.count("it is replaced|cut off|cutting it off") == 0


def test_counts_and_causes_are_on_the_board(tmp_path: Path) -> None:
    from serverd.server.facts import read_counts  # noqa: PLC0415
    from serverd.server.scoreboard import Arena  # noqa: PLC0415

    config = {"timeouts": {"stuck": "300ms"}, "workers": {"threads": 2}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        folder = Path(f"/proc/{daemon.pid}/fd")
        (memory,) = [link for link in folder.iterdir() if "serverd-scoreboard" in os.readlink(link)]
        arena = Arena(os.open(memory, os.O_RDONLY))
        over = threading.Event()
        seen: list[int] = []

        def watch() -> None:
            while not over.wait(0.005):
                counts = read_counts(arena)
                assert counts is not None
                seen.append(counts.totals.requests)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(20):
                get(daemon, "/")
            (sick,) = daemon.workers()
            with asking(daemon, "/block"):
                served_by_another(daemon, sick)
                wait_until(lambda: sick not in daemon.workers(), "the sick child is gone")
            for _ in range(5):
                get(daemon, "/")
        finally:
            over.set()
            watcher.join()

        def settled() -> bool:
            counts = read_counts(arena)
            return counts is not None and counts.facts["restarts"]["watchdog"] == 1

        wait_until(settled, "the board says so")
        counts = read_counts(arena)
        assert counts is not None
        assert counts.facts["lost_threads"] == 1
        assert counts.totals.by_class["2xx"] >= 26
        assert seen == sorted(seen), "totals never go backwards"
        arena.close()


WSGI = """
import os

def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/upload":
        while environ["wsgi.input"].read(65536):
            pass
    if path == "/download":
        return (b"x" * 65536 for _ in range(64))
    return [str(os.getpid()).encode()]
"""


def test_a_thread_that_its_client_holds_is_neither_slow_nor_lost(tmp_path: Path) -> None:
    config = {
        "timeouts": {"stuck": "300ms", "request": "200ms"},
        "limits": {"buffered_body": "1KiB"},
    }
    with Daemon(tmp_path, app=WSGI, config=config) as daemon, ExitStack() as opened:
        daemon.wait_ready()
        (child,) = daemon.workers()
        upload, download = (
            opened.enter_context(RawClient(("127.0.0.1", daemon.port), receive_buffer=4096)) for _ in range(2)
        )
        upload.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50000)
        download.send(b"GET /download HTTP/1.1\r\nHost: x\r\n\r\n")
        until = (
            time.monotonic() + 1.5
        )  # several times both limits: nothing must happen, so there is nothing to wait for
        while time.monotonic() < until:
            assert int(get(daemon, "/")) == child
        upload.send(b"x" * 50000)
        assert upload.response().status == 200
        assert len(download.response().body) == 64 * 65536
        assert daemon.count("takes longer|is replaced") == 0
