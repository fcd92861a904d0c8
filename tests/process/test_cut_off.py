"""What a child takes with it at its end is cut off: named, logged and counted so, and no error of the application."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_until

APP = """
import asyncio, time
from pathlib import Path

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    (Path(__file__).parent / "entered").touch()
    if scope["path"] == "/asleep":
        await asyncio.sleep(30)
    if scope["path"] == "/sleep":
        time.sleep(30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


@pytest.mark.parametrize(("mode", "path"), [("sync", "/sleep"), ("sync", "/asleep"), ("async", "/asleep")])
def test_a_request_that_outlasts_the_graceful_time(tmp_path: Path, mode: str, path: str) -> None:
    config = {"workers": {"mode": mode, "threads": 2}, "timeouts": {"graceful": "200ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon, RawClient(("127.0.0.1", daemon.port)) as client:
        daemon.wait_ready()
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until((tmp_path / "entered").exists, "the application has it")
        daemon.signal(signal.SIGTERM)
        with pytest.raises((EOFError, ConnectionError)):
            client.response()
        assert daemon.wait_exit() == 0
        daemon.wait_for_line(rf"cut off at the end of timeouts.graceful: GET {path} ")
        daemon.wait_for_line(rf'"GET {path} HTTP/1.1" 499 0 ')
        assert daemon.count("Traceback|raised an exception") == 0
