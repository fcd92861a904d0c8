"""Real SyncWorkers, or a home loop, in this process, on a real socket, for tests of how requests are served.

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
from typing import Any, Final

from serverd.config import ServerConfig
from serverd.server.app_loader import WSGIApp
from serverd.server.async_pool import AsyncPool
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.conn_table import MakeConnection
from serverd.server.connection import Connection
from serverd.server.farewell import Refuser
from serverd.server.lifecycle import LifecycleCollector, recorder
from serverd.server.loop_queue import LoopQueue
from serverd.server.per_address import PerAddress
from serverd.server.sync_app import SyncApp
from serverd.server.sync_worker import SyncWorker

from .client import RawClient

# What serves: "threads" (`mode: sync`), or "asyncio" or "uvloop" (`mode: async` on that loop).
ENGINES: Final = ("threads", "asyncio", "uvloop")
_engine = "threads"


@contextlib.contextmanager
def engine(name: str) -> Iterator[None]:
    """What ``serving`` uses when it is not told."""
    global _engine  # noqa: PLW0603 - a fixture sets it around a test
    before, _engine = _engine, name
    try:
        yield
    finally:
        _engine = before


@dataclass
class Workers:
    """What ``serving`` gives to a test."""

    address: tuple[str, int]
    queue: ConnectionQueue
    workers: list[SyncWorker] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    pool: AsyncPool | None = None

    def is_idle(self) -> bool:
        return all(worker.is_idle() for worker in self.workers) and (self.pool is None or self.pool.is_idle())

    def drain(self) -> None:
        for worker in self.workers:
            worker.start_draining()
        if self.pool is not None:
            self.pool.drain()

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, **options)


@contextlib.contextmanager
def serving(
    app: Any,
    *,
    threads: int = 2,
    config: ServerConfig | None = None,
    sync_app: SyncApp | None = None,
    wsgi_app: WSGIApp | None = None,
    collector: LifecycleCollector | None = None,
    state: dict[str, Any] | None = None,
    make_connection: MakeConnection = Connection,
    home: bool = False,
    by: str = "",
) -> Iterator[Workers]:
    """``threads`` workers that share one queue, and a keeper in place of the child's main thread.

    home: with a home loop beside them, for what is long. by: one of ``ENGINES``.
    """
    by = by or _engine
    config = config or ServerConfig(app="test:app")
    record = recorder(collector)
    kind = ConnectionQueue if by == "threads" else LoopQueue
    limit = config.limits.connections
    queue = kind(
        config.timeouts,
        max_connections=limit,
        record=record,
        make_connection=make_connection,
        addresses=PerAddress.of(config, lambda _: None),
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    served = Workers(listener.getsockname(), queue)
    if home or by != "threads":
        served.pool = AsyncPool("asyncio" if by == "threads" else by)
        served.pool.start()
        served.pool.serve(config, app, queue, state=state, lifecycle_collector=collector)
    for number in range(threads if by == "threads" else 0):
        worker = SyncWorker(
            config,
            app,
            None,
            worker_id=number,
            conn_queue=queue,
            async_pool=served.pool,
            sync_app=sync_app,
            wsgi_app=wsgi_app,
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
        if served.pool is not None:
            assert served.pool.stop(), "the home loop did not end"
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
