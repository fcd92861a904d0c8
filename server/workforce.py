"""The workers of one child: its SyncWorker threads with their stand-ins, and the home loop.

Promises: ``start`` returns when every thread serves; a worker that a client holds has a stand-in at once, as long
as not too many are held. Refuses: to decide when a child drains (``child``).

Threads: everything belongs to the child's main thread but ``_relieve``, which the workers call; the lock ``_changing``
stands before the list of workers and whatever is counted with it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..config import ServerConfig
from .access_log import WorkerLog
from .app_loader import LoadedApp
from .async_pool import AsyncPool
from .conn_queue import ConnectionQueue
from .exchange import Exchange
from .sync_worker import SyncWorker

# So many workers may be held by their clients (WSGI: a slow download of a generator) and have a stand-in at a time; a
# thread that waits takes about 100 KiB.
MOST_RELIEVED: Final = 256


class Workforce:
    """See the module. ``state``: the lifespan's; ``new_log``, called by any thread, makes the log of one more
    worker."""

    def __init__(
        self,
        config: ServerConfig,
        app: LoadedApp,
        queue: ConnectionQueue,
        pool: AsyncPool,
        state: dict[str, Any] | None,
        new_log: Callable[[], WorkerLog | None],
    ) -> None:
        self._config = config
        self._app = app
        self._queue = queue
        self._pool = pool
        self._state = state
        self._new_log = new_log
        # What every worker begins with. Free-threaded CPython gives a thread the context that it is started in, and a
        # stand-in is started in the middle of a request.
        self._context = contextvars.copy_context()
        self._changing = threading.Lock()
        self._workers: dict[SyncWorker, threading.Thread] = {}
        self._held = 0  # workers that have a stand-in
        self._requests_of_ended = 0
        self._logs_of_ended: list[WorkerLog | None] = []

    def start(self) -> int:
        """Start the home loop's part and every thread; the number of threads. Raises OSError, and RuntimeError when the
        machine has no thread left."""
        config = self._config
        if self._app.interface == "asgi":
            log = self._new_log()
            self._pool.serve(config, self._app.app, self._queue, state=self._state, access_log=log)
        if config.workers.mode == "sync":
            for number in range(config.workers.thread_count()):
                self._start_one(number)
        for worker in self._workers:
            worker.started.wait()
            if worker.failure is not None:
                raise worker.failure
        return len(self._workers)

    def start_draining(self) -> None:
        """Every response says ``Connection: close`` from now on; WebSockets and event streams end."""
        with self._changing:
            for worker in self._workers:
                worker.start_draining()
        self._pool.drain()

    def is_idle(self) -> bool:
        """Whether no request is served."""
        return self._pool.is_idle() and all(worker.is_idle() for worker in self._now())

    def in_flight(self) -> list[Exchange]:
        """The requests of this moment; they may end while the caller looks at them."""
        held = [exchange for worker in self._now() for exchange in worker.in_flight()]
        return held + self._pool.in_flight()

    def left_behind(self) -> int:
        """Tasks that requests have left behind in the threads' loops."""
        return sum(worker.left_behind() for worker in self._now())

    def requests(self) -> int:
        """How many requests were read."""
        with self._changing:
            return (
                sum(worker.requests for worker in self._workers)
                + self._requests_of_ended
                + self._pool.requests
            )

    def leave(self, seconds: float) -> None:
        """Wait until the threads have ended, after the queue was told to wake them."""
        deadline = monotonic() + seconds
        with self._changing:
            threads = list(self._workers.values())
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))

    def _now(self) -> list[SyncWorker]:
        with self._changing:
            return list(self._workers)

    def _start_one(self, number: int) -> SyncWorker:
        app = self._app
        worker = SyncWorker(
            self._config,
            app.app,
            None,
            worker_id=number,
            conn_queue=self._queue,
            async_pool=self._pool if app.interface == "asgi" else None,
            sync_app=app.sync_app,
            wsgi_app=app.wsgi_app,
            access_log=self._logs_of_ended.pop() if self._logs_of_ended else self._new_log(),
            relief=self._relieve,
        )
        if self._state is not None:
            worker.set_lifespan_state(self._state)
        # A daemon: at the end of the graceful time a thread that is stuck in the application must not hold the exit.
        name = f"serverd-worker-{number}"
        thread = threading.Thread(target=worker.run, name=name, daemon=True, context=self._context.copy())
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            self._logs_of_ended.append(worker.log)
            raise
        self._workers[worker] = thread
        return worker

    def _relieve(self, worker: SyncWorker) -> bool:
        """A client holds ``worker``: start another in its place, unless too many are held already."""
        with self._changing:
            self._forget_ended()
            if self._held >= MOST_RELIEVED:
                return False
            try:
                stand_in = self._start_one(worker.worker_id)
            except RuntimeError:  # then this one has to do without
                return False
            stand_in.started.wait()
            if stand_in.failure is not None:  # no descriptors for its loop
                del self._workers[stand_in]
                self._logs_of_ended.append(stand_in.log)
                return False
            self._held += 1
            if worker.draining:
                stand_in.start_draining()
        return True

    def _forget_ended(self) -> None:
        """Those that have ended since their stand-in came. The caller holds the lock."""
        for worker, thread in list(self._workers.items()):
            if worker.retired and not thread.is_alive():
                del self._workers[worker]
                self._held -= 1
                self._requests_of_ended += worker.requests
                self._logs_of_ended.append(worker.log)
