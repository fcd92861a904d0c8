"""No request is ever taken for another, however threads are switched, with the GIL and without (support/stress.py).

`make stress` runs this for longer: STRESS_SECONDS is how long each daemon is under load, and above the default all of
them run.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority, TlsClient
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.stress import ASGI, KINDS, WSGI, Crowd

SECONDS = float(os.environ.get("STRESS_SECONDS", "2.5"))
LONG = SECONDS > 10
CLIENTS = 24 if LONG else 12
WSGI_KINDS = tuple(kind for kind in KINDS if kind not in ("websocket", "events"))

# What serves, and with the GIL or without.
RUNS = [("asgi", "0"), ("tls", "1"), ("wsgi", "0")]
if LONG:
    RUNS = [(kind, gil) for kind in ("asgi", "tls", "wsgi", "async", "elastic") for gil in ("0", "1")]


def configuration(kind: str, folder: Path) -> tuple[dict[str, Any], Authority | None]:
    config: dict[str, Any] = {
        "workers": {"processes": 2, "threads": 32},
        "logging": {"level": "debug", "access": False},
        # The clients take every core that there is, also from children that boot.
        "timeouts": {"graceful": "60s", "boot": "120s"},
    }
    if kind == "async":
        config["workers"] = {"processes": 2, "mode": "async", "loop": "asyncio"}
    if kind == "elastic":
        config["workers"]["threads"] = {"min": 1, "max": 64}
    if kind != "tls":
        return config, None
    authority = Authority(folder)
    config["tls"] = authority.issue("localhost").config()
    return config, authority


@pytest.mark.parametrize(("kind", "gil"), RUNS, ids=[f"{kind}-gil-{gil}" for kind, gil in RUNS])
def test_no_request_is_taken_for_another(tmp_path: Path, kind: str, gil: str) -> None:
    config, authority = configuration(kind, tmp_path)
    app = WSGI if kind == "wsgi" else ASGI
    with Daemon(tmp_path, app=app, config=config, env={"PYTHON_GIL": gil}) as daemon:
        daemon.wait_ready()
        address = ("127.0.0.1", daemon.port)

        def connect() -> RawClient:
            if authority is None:
                return RawClient(address)
            return TlsClient(address, authority.client())

        crowd = Crowd(connect, CLIENTS, WSGI_KINDS if kind == "wsgi" else KINDS)
        reloads = max(1, int(SECONDS / 10))
        answered = 0
        try:
            for number in range(reloads):
                crowd.wait(SECONDS / (reloads + 1))
                daemon.signal(signal.SIGHUP)
                daemon.wait_for_line(rf"generation {number + 2} ready", 120)
        finally:
            answered = crowd.run(SECONDS / (reloads + 1))
        assert crowd.wrong == []
        assert answered > CLIENTS
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit(60) == 0
        assert not daemon.count("Traceback|internal error|  error  ")
