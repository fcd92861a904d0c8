"""`mode: async`, and the home loop beside the threads, in a daemon as users start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from ..support.client import RawClient
from ..support.daemon import Daemon, wait_until

APP = """
import asyncio, threading

clients = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["loop"] = asyncio.get_running_loop()
        scope["state"]["lock"] = asyncio.Lock()      # as a shared client of a database is, bound to its loop
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/events":
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if scope["path"] == "/lock":
        async with scope["state"]["lock"]:
            await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    same = loop is scope["state"]["loop"]
    kind = "asyncio" if isinstance(loop, asyncio.SelectorEventLoop) else type(loop).__module__.partition(".")[0]
    body = f"{kind} {same} {threading.active_count()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""

EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
def test_every_request_is_in_the_loop_of_the_lifespan(tmp_path: Path, loop: str) -> None:
    config = {"workers": {"processes": 1, "mode": "async", "loop": loop}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_for_line("generation 1 ready in .*: 1 process × 1 event loop")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(30)]
            for client in clients:
                client.send(b"GET /lock HTTP/1.1\r\nHost: x\r\n\r\n")
            answers = [client.response().body.split() for client in clients]
        name = b"asyncio" if loop == "asyncio" else b"uvloop"
        assert {(answer[0], answer[1]) for answer in answers} == {(name, b"True")}
        # The main thread, the home loop and the access log's: no worker threads.
        assert {answer[2] for answer in answers} == {b"3"}


def test_a_child_for_each_cpu_as_a_loop_runs_on_one(tmp_path: Path) -> None:
    config = {"workers": {"processes": "auto", "mode": "async"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        cpus = os.process_cpu_count() or 1
        daemon.wait_for_line(rf"ready in .*: {cpus} process(es)? × 1 event loop")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_term_ends_event_streams_at_once_and_completely(tmp_path: Path, mode: str) -> None:
    config = {"workers": {"processes": 1, "threads": 1, "mode": mode}, "timeouts": {"graceful": "60s"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        clients = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(50)]
        for client in clients:
            client.send(EVENTS)
        for client in clients:
            client.until(b"data: 1\n\n\r\n")
        daemon.signal(signal.SIGTERM)
        for client in clients:
            assert client.rest() == b"0\r\n\r\n"
        assert daemon.wait_exit(timeout=20) == 0
        assert not daemon.count("cut off")
        daemon.wait_for_line(r'"GET /events HTTP/1.1" 200|GET /events.* 200')


def test_a_reload_moves_event_streams_to_the_new_code(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=APP) as daemon, RawClient(("127.0.0.1", daemon.port)) as client:
        daemon.wait_ready()
        client.send(EVENTS)
        client.until(b"data: 1\n\n\r\n")
        daemon.write_app(APP.replace("data: 1", "data: 2"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line("generation 2 ready")
        assert client.rest() == b"0\r\n\r\n"
        with RawClient(("127.0.0.1", daemon.port)) as again:
            again.send(EVENTS)
            again.until(b"data: 2\n\n\r\n")


def test_a_child_may_open_what_its_connections_need(tmp_path: Path) -> None:
    argv = ["prlimit", "--nofile=256:5000", *_serverd(tmp_path)]
    with Daemon(tmp_path, app=APP, argv=argv) as daemon:
        daemon.wait_ready()
        limits = Path(f"/proc/{daemon.workers()[0]}/limits").read_text()
        found = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits)
        assert found is not None
        assert found.groups() == ("5000", "5000")


def test_more_clients_than_the_old_limit_of_descriptors(tmp_path: Path) -> None:
    argv = ["prlimit", "--nofile=64:4000", *_serverd(tmp_path)]
    with Daemon(tmp_path, app=APP, argv=argv) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_ready()
        clients = [stack.enter_context(RawClient(("127.0.0.1", daemon.port))) for _ in range(200)]
        for client in clients:
            client.send(EVENTS)
        for client in clients:
            client.until(b"data: 1\n\n\r\n")
        wait_until(lambda: not daemon.count("accept failed"))


def test_what_blocks_is_not_served_in_a_loop(tmp_path: Path) -> None:
    app = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"
    with Daemon(tmp_path, app=app, config={"workers": {"mode": "async"}}) as daemon:
        daemon.wait_for_line("is a WSGI application, which blocks: set workers.mode: sync")
        assert daemon.wait_exit() == 4


def _serverd(folder: Path) -> list[str]:
    return [sys.executable, "-m", "serverd", "-c", str(folder / "server.yaml")]
