"""Recycling in real children: under load no request is lost, and there are never fewer children than wanted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.load import Load
from tests.support.probe import source

from .test_master_lifecycle import get

LEAK = """
leaked = []

async def app(scope, receive, send):
    if scope["path"] == "/leak":
        leaked.append(b"x" * 30_000_000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(leaked)})
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_max_requests_under_load_loses_nothing(tmp_path: Path, mode: str) -> None:
    config = {"workers": {"processes": 2, "threads": 2, "mode": mode, "max_requests": 20}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        first = set(daemon.workers())
        with Load(daemon.port, clients=8) as load:
            daemon.wait_for_line(
                r"worker . g1 \(pid \d+\) has had \d+ requests \(workers.max_requests\): it is replaced"
            )
            wait_until(lambda: not first & set(daemon.workers()), "both first children are gone")
        assert load.totals.failures == []
        assert len({int(body.split()[1]) for body in load.totals.bodies}) >= 3, (
            "old ones and new ones answered"
        )
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        assert daemon.count("Traceback") == 0


def test_an_idle_child_ends_its_lifetime_on_time(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"workers": {"processes": 1, "max_lifetime": "1s"}}) as daemon:
        daemon.wait_ready()
        (first,) = daemon.workers()
        daemon.wait_for_line(rf"worker 0 g1 \(pid {first}\) has had 1s of life \(workers.max_lifetime\)")
        wait_until(lambda: first not in daemon.workers(), "the first child is gone")
        assert get(daemon).status == 200


def test_a_child_that_grows_too_large_is_replaced(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=LEAK, config={"workers": {"processes": 1, "max_rss": "150MB"}}) as daemon:
        daemon.wait_ready()
        for _ in range(5):
            get(daemon, "/leak")
        daemon.wait_for_line(r"MiB of memory \(workers.max_rss is 150000000\): it is replaced")
        wait_until(lambda: get(daemon).body == b"0", "the new child answers")
