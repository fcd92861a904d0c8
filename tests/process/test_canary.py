"""reload.canary: the first new child serves beside the old ones, and is rolled back when it does worse."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_until

APP = """
import os, time

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    {before}
    await send({{"type": "http.response.start", "status": {status}, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{word}"}})
"""
OLD = APP.format(before="pass", status=200, word="old")
CONFIG = {
    "workers": {"processes": 2, "threads": 2},
    "reload": {"canary": "3s"},
    "logging": {"format": "text", "access": False},
}


@contextmanager
def clients(daemon: Daemon) -> Iterator[dict[bytes, int]]:
    """Four clients that open a connection for each request, as the canary gets new ones only; answers by body."""
    over = threading.Event()
    seen: dict[bytes, int] = {}
    lock = threading.Lock()

    def load() -> None:
        while not over.is_set():
            try:
                with RawClient(("127.0.0.1", daemon.port)) as client:
                    body = client.get(headers="Connection: close\r\n").body
            except EOFError, ConnectionError:
                body = b"no answer"
            with lock:
                seen[body] = seen.get(body, 0) + 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def reload(daemon: Daemon, source: str) -> None:
    daemon.write_app(source)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line(r"canary: worker 0 g2 \(pid \d+\) serves beside generation 1 for [23](\.\d+)? s")


def test_a_good_one_is_followed_by_the_others(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=OLD, config=CONFIG) as daemon:
        daemon.wait_ready()
        with clients(daemon) as seen:
            reload(daemon, APP.format(before="pass", status=200, word="new"))
            wait_until(lambda: seen.get(b"new", 0) > 0, "the canary gets traffic")
            assert daemon.count("generation 2 ready") == 0
            daemon.wait_for_line(r"canary: \d+ requests, 0 of them failed")
            daemon.wait_for_line("generation 2 ready")
        assert set(seen) == {b"old", b"new"}


def test_one_that_fails_requests_is_rolled_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=OLD, config=CONFIG) as daemon:
        daemon.wait_ready()
        with clients(daemon) as seen:
            reload(daemon, APP.format(before="pass", status=503, word="new"))
            daemon.wait_for_line(r"canary: 100 % of \d+ requests failed, 0 % of \d+ before: rolling back")
            daemon.wait_for_line("reload failed: still serving generation 1")
            wait_until(lambda: len(daemon.workers()) == 2, "the canary is gone")
            already = seen[b"old"]
            wait_until(lambda: seen[b"old"] > already + 20, "the old ones serve on")
        assert b"no answer" not in seen


def test_one_that_is_slow_is_rolled_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=OLD, config=CONFIG) as daemon:
        daemon.wait_ready()
        with clients(daemon):
            reload(daemon, APP.format(before="time.sleep(0.05)", status=200, word="new"))
            daemon.wait_for_line(r"canary: .* requests took longer than [\d.]+ ms, .* before: rolling back")
            daemon.wait_for_line("reload failed: still serving generation 1")


def test_one_that_answers_nothing_is_rolled_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=OLD, config=CONFIG) as daemon:
        daemon.wait_ready()
        with clients(daemon) as seen:
            reload(daemon, APP.format(before="time.sleep(6)", status=200, word="new"))
            daemon.wait_for_line(
                r"canary: a request has waited [\d.]+ s for its answer, .* before: rolling back"
            )
            daemon.wait_for_line("reload failed: still serving generation 1")
        assert b"old" in seen


def test_one_that_dies_is_rolled_back(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=OLD, config=CONFIG) as daemon:
        daemon.wait_ready()
        with clients(daemon) as seen:
            reload(daemon, APP.format(before="time.sleep(0.3); os._exit(9)", status=200, word="new"))
            daemon.wait_for_line("reload failed: still serving generation 1")
            already = seen[b"old"]
            wait_until(lambda: seen[b"old"] > already + 20, "the old ones serve on")
        assert daemon.count("exited with status 9") == 1, "one canary, and no more"
