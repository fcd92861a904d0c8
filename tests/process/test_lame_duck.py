"""A server that stops behind a load balancer: it serves on, says so, and then drains."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.load import Load
from tests.support.probe import source


def test_term_is_followed_by_a_time_in_which_everything_is_served(tmp_path: Path) -> None:
    config = {"workers": {"processes": 2}, "timeouts": {"lame_duck": "1s", "graceful": "10s"}}
    with Daemon(tmp_path, app=source(), config=config) as daemon:
        daemon.wait_ready()
        with RawClient(("127.0.0.1", daemon.port)) as before, Load(daemon.port, clients=4) as load:
            assert before.get().header("connection") is None
            load.wait_for(20)
            began = time.monotonic()
            daemon.signal(signal.SIGTERM)
            daemon.wait_for_line("lame duck: stopping in 1 s, responses say Connection: close")
            with RawClient(("127.0.0.1", daemon.port)) as after:
                assert after.get().status == 200, "accepting goes on"
            load.wait_for(20)
            daemon.signal(signal.SIGHUP)
            totals = load.stop()
            assert totals.failures == []
            assert totals.reconnects > 0
            assert before.get().header("connection") == "close"
        daemon.wait_for_line("stopping, requests in flight have 10 s")
        assert time.monotonic() - began >= 1.0
        assert daemon.wait_exit() == 0
        assert daemon.count("reload") == 0


def test_a_second_term_ends_the_waiting(tmp_path: Path) -> None:
    with Daemon(tmp_path, app=source(), config={"timeouts": {"lame_duck": "1h"}}) as daemon:
        daemon.wait_ready()
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_line("lame duck: stopping in 3600 s")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
