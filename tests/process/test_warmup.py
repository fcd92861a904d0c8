"""reload.warmup: a new child has answered these paths before it serves anybody."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.daemon import Daemon

from .test_master_lifecycle import get

APP = """
import os
asked = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    asked.append(scope["path"])
    status = {status}
    await send({{"type": "http.response.start", "status": status, "headers": []}})
    await send({{"type": "http.response.body", "body": b"%d %s" % (os.getpid(), " ".join(asked).encode())}})
"""


def app(status: str = "200") -> str:
    return APP.format(status=status)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_paths_are_requested_before_the_first_client(tmp_path: Path, mode: str) -> None:
    config = {"workers": {"mode": mode, "threads": 2}, "reload": {"warmup": ["/healthz", "/first"]}}
    with Daemon(tmp_path, app=app(), config=config) as daemon:
        daemon.wait_ready()
        assert get(daemon).body.split()[1:] == [b"/healthz", b"/first", b"/"]


def test_a_bad_answer_is_a_failure_to_boot(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=app(), config={"reload": {"warmup": ["/healthz"]}}) as daemon:
        daemon.wait_ready()
        before = get(daemon).body.split()[0]
        daemon.write_app(app("503"))
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(r"cannot boot: reload.warmup: GET /healthz answered 503")
        daemon.wait_for_line("reload failed: still serving generation 1")
        assert get(daemon).body.split()[0] == before


def test_no_answer_in_time(tmp_path: Path) -> None:
    source = app("__import__('time').sleep(60)")
    config = {"reload": {"warmup": ["/slow"]}, "timeouts": {"boot": "1s"}}
    with Daemon(tmp_path, app=source, config=config) as daemon:
        daemon.wait_for_line(r"did not boot within 1 s|GET /slow was not answered within timeouts.boot")
        assert daemon.wait_exit() == 3


def test_behind_tls_it_needs_no_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("localhost")
    config = {
        "reload": {"warmup": ["/healthz"]},
        "tls": {"cert": str(files.cert), "key": str(files.key)},
    }
    with Daemon(tmp_path, app=app(), config=config) as daemon:
        daemon.wait_ready()
        daemon.wait_for_line(r"GET /healthz")
