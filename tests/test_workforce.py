"""The workers of a child: what becomes of their number when there is no thread, or no descriptor, for one more."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from serverd.config import ServerConfig, WorkersConfig
from serverd.server import workforce
from serverd.server.access_log import AccessLog
from serverd.server.app_loader import LoadedApp, no_asgi
from serverd.server.async_pool import AsyncPool
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.sync_worker import SyncWorker
from serverd.server.workforce import Workforce


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


@pytest.fixture
def log() -> AccessLog:
    return AccessLog("text", "worker 0 g1", 1)


@pytest.fixture
def force(log: AccessLog) -> Any:
    queue = ConnectionQueue()
    config = ServerConfig(app="test:app", workers=WorkersConfig(threads=1))
    app = LoadedApp("test:app", "wsgi", no_asgi, None, None, wsgi_app=hello)
    force = Workforce(config, app, queue, AsyncPool(), None, log.for_worker)
    force.start()
    yield force
    queue.wake()
    force.leave(10)
    queue.release()


def test_no_thread_for_a_stand_in(force: Workforce, log: AccessLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (worker,) = force._now()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(5):
            assert not force._relieve(worker)
    assert force._now() == [worker]
    assert len(log._workers) <= 2
    assert force._relieve(worker)
    assert len(force._now()) == 2
    assert len(log._workers) == 2


def test_no_descriptor_for_a_stand_in(
    force: Workforce, log: AccessLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Unable(SyncWorker):
        def run(self) -> None:
            self.failure = OSError(24, "Too many open files")
            self.started.set()

    (worker,) = force._now()
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(workforce, "SyncWorker", Unable)
        for _ in range(5):
            assert not force._relieve(worker)
    assert force._now() == [worker]
    assert len(log._workers) <= 2
    assert force._relieve(worker)
