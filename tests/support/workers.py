"""Real SyncWorkers in this process, on a real listening socket, for tests of how requests are served.

A test of the daemon as a whole uses ``support.daemon`` instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from serverd.config import ServerConfig
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.farewell import Refuser
from serverd.server.lifecycle import LifecycleCollector, recorder
from serverd.server.sync_app import SyncApp
from serverd.server.sync_worker import SyncWorker

from .client import RawClient


@dataclass
class Workers:
    """What ``serving`` gives to a test."""

    address: tuple[str, int]
    queue: ConnectionQueue
    workers: list[SyncWorker] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, **options)


@contextlib.contextmanager
def serving(
    app: Any,
    *,
    threads: int = 2,
    config: ServerConfig | None = None,
    sync_app: SyncApp | None = None,
    collector: LifecycleCollector | None = None,
    state: dict[str, Any] | None = None,
) -> Iterator[Workers]:
    """``threads`` workers that share one queue, and a keeper in place of the child's main thread."""
    config = config or ServerConfig(app="test:app")
    record = recorder(collector)
    queue = ConnectionQueue(config.timeouts, max_connections=config.limits.connections, record=record)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    served = Workers(listener.getsockname(), queue)
    for number in range(threads):
        worker = SyncWorker(
            config,
            app,
            None,
            worker_id=number,
            conn_queue=queue,
            sync_app=sync_app,
            lifecycle_collector=collector,
        )
        if state is not None:
            worker.set_lifespan_state(state)
        served.workers.append(worker)
        served.threads.append(threading.Thread(target=worker.run, name=f"test-worker-{number}", daemon=True))
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(queue, ended), name="test-keeper", daemon=True)
    for thread in (*served.threads, keeper):
        thread.start()
    queue.add_listener(listener)
    try:
        yield served
    finally:
        queue.wake()
        for thread in served.threads:
            thread.join(10)
        ended.set()
        queue.notice()
        keeper.join(10)
        alive = [thread.name for thread in served.threads if thread.is_alive()]
        assert not alive, f"workers did not end: {alive}"
        queue.release()


def _keep(queue: ConnectionQueue, ended: threading.Event) -> None:
    refuser = Refuser(queue, None)
    poll = select.poll()
    poll.register(queue.attention, select.POLLIN)
    while not ended.is_set():
        due = queue.tend(time.monotonic(), refuser.expired)
        if poll.poll(max(0.0, due - time.monotonic()) * 1000 + 1):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(queue.attention)
