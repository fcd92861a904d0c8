"""The workers of one child: its SyncWorker threads with their stand-ins, and the home loop.

Promises: ``start`` returns when every thread serves; a worker that a client holds has a stand-in at once, as long
as not too many are held; a worker that is not needed any more ends when it is idle, and never with anything of the
application's in its loop. Refuses: to decide when a child drains (``child``), and how many workers there should be
(``elastic``).

Threads: everything belongs to the child's main thread but ``_relieve`` and ``_dismiss``, which the workers call; the
lock ``_changing`` stands before the list of workers and whatever is counted with it.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Final

from ..config import ServerConfig
from .access_log import WorkerLog
from .app_loader import LoadedApp
from .async_pool import AsyncPool
from .conn_queue import ConnectionQueue
from .exchange import Exchange
from .shedding import Gate
from .slots import Scores
from .stacks import Held
from .sync_worker import SyncWorker

logger = logging.getLogger("serverd.worker")

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
        scores: Scores | None = None,
    ) -> None:
        self._scores = scores or Scores()
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
        self._held: set[SyncWorker] = set()  # workers that have a stand-in
        self._draining = False
        self._gate: Gate | None = None
        self._alert = False
        # Taken by a worker that is idle, which then leaves if there are more than are wanted: see `shrink`.
        self._farewell = -1
        self._wanted = config.workers.thread_bounds()[1]
        self._requests_of_ended = 0
        self._logs_of_ended: list[WorkerLog | None] = []

    def start(self) -> int:
        """Start the home loop's part and every thread; the number of threads. Raises OSError, and RuntimeError when the
        machine has no thread left."""
        config = self._config
        if self._app.interface == "asgi":
            log = self._new_log()
            self._pool.serve(
                config,
                self._app.app,
                self._queue,
                state=self._state,
                access_log=log,
                slot=self._scores.take(),
            )
        if config.workers.mode == "sync":
            least, most = config.workers.thread_bounds()
            if least < most:
                self._farewell = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._queue.errands.add(self._farewell, lambda: True)
            for number in range(least):
                self._start_one(number)
        for worker in self._workers:
            worker.started.wait()
            if worker.failure is not None:
                raise worker.failure
        return len(self._workers)

    def say_close(self) -> None:
        """Every response says ``Connection: close`` from now on, and everything else goes on."""
        with self._changing:
            self._draining = True
            for worker in self._workers:
                worker.start_draining()
        self._pool.start_draining()

    def start_draining(self) -> None:
        """As ``say_close``, and WebSockets and event streams end."""
        self.say_close()
        self._pool.drain()

    def give_up(self) -> None:
        """The child ends now: what is still in flight counts as cut off."""
        for worker in self._now():
            for exchange in worker.in_flight():
                if not exchange.done:
                    exchange.write_off()
        self._pool.give_up()

    def is_idle(self) -> bool:
        """Whether no request is served."""
        return self._pool.is_idle() and all(worker.is_idle() for worker in self._now())

    def in_flight(self) -> list[Exchange]:
        """The requests of this moment; they may end while the caller looks at them."""
        held = [exchange for worker in self._now() for exchange in worker.in_flight()]
        return held + self._pool.in_flight()

    def held(self) -> dict[int, Held]:
        """What each thread serves at the moment, by Python's number of the thread."""
        with self._changing:
            workers = list(self._workers.items())
        ours = {
            thread.ident: worker.held()
            for worker, thread in workers
            if thread.ident is not None and worker.started.is_set() and worker.failure is None
        }
        return ours | self._pool.held()

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

    def threads(self) -> int:
        """How many serve now, stand-ins included."""
        return sum(not worker.retired for worker in self._now())

    # -- more and fewer (``load_keeper``) ----------------------------------------------------------------------------

    def guard(self, gate: Gate) -> None:
        """Have every worker ask ``gate`` while ``alert`` is on."""
        with self._changing:
            self._gate = gate
            for worker in self._workers:
                worker.gate = gate
        self._pool.guard(gate)

    def alert(self, on: bool) -> None:
        """Whether the gate wants to hear of requests. One attribute of each worker, so that workers share nothing."""
        with self._changing:
            self._alert = on
            for worker in self._workers:
                worker.alert = on
        self._pool.alert(on)

    def busy(self) -> tuple[int, int]:
        """How many workers run the application now, and how many there are; those that a client holds, and have a
        stand-in, are not counted."""
        with self._changing:
            self._forget_ended()
            serving = self._serving()
        return sum(worker.is_busy() for worker in serving), len(serving)

    def _serving(self) -> list[SyncWorker]:
        """Those that take requests. The caller holds the lock."""
        return [worker for worker in self._workers if not worker.retired and worker not in self._held]

    def any_idle(self) -> bool:
        """Whether somebody is sure to take the next request at once."""
        if self._config.workers.mode == "async":
            return self._pool.is_idle()
        return any(worker.is_idle() for worker in self._now() if not worker.retired)

    def native_ids(self) -> list[int]:
        """The kernel's numbers of the workers' threads."""
        with self._changing:
            return [
                thread.native_id
                for worker, thread in self._workers.items()
                if not worker.retired and thread.native_id is not None
            ]

    def grow(self, number: int) -> int:
        """Start so many workers more; how many of them serve now."""
        with self._changing:
            self._wanted = len(self._serving()) + number
            came: list[SyncWorker] = []
            used = {worker.worker_id for worker in self._workers}
            free = (place for place in count() if place not in used)
            try:
                for _ in range(number):
                    came.append(self._start_one(next(free)))
            except RuntimeError as exc:
                logger.warning("cannot start a thread: %s", exc)
            for worker in came:
                self._serves(worker)
        return sum(worker.failure is None for worker in came)

    def shrink(self, wanted: int) -> None:
        """Have workers leave until there are ``wanted``, each when it is idle. Whoever takes the event passes it on to
        the next."""
        with self._changing:
            self._wanted = wanted
        self._queue.errands.arm(self._farewell)

    def _dismiss(self, worker: SyncWorker) -> bool:
        """Whether ``worker``, which has nothing to do, may end."""
        with self._changing:
            surplus = len(self._serving()) - self._wanted
            if surplus <= 0:
                return False
            worker.retired = True
            if surplus > 1:
                self._queue.errands.arm(self._farewell)
        return True

    # -- the end -----------------------------------------------------------------------------------------------------

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
            slot=self._scores.take(),
            relief=self._relieve,
            dismissal=self._dismiss if self._farewell >= 0 else None,
        )
        worker.gate = self._gate
        worker.alert = self._alert
        if self._draining:
            worker.start_draining()
        if self._state is not None:
            worker.set_lifespan_state(self._state)
        # A daemon: at the end of the graceful time a thread that is stuck in the application must not hold the exit.
        name = f"serverd-worker-{number}"
        thread = threading.Thread(target=worker.run, name=name, daemon=True, context=self._context.copy())
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            self._put_back(worker)
            raise
        self._workers[worker] = thread
        return worker

    def _relieve(self, worker: SyncWorker) -> bool:
        """A client holds ``worker``: start another in its place, unless too many are held already."""
        with self._changing:
            self._forget_ended()
            if len(self._held) >= MOST_RELIEVED:
                return False
            try:
                stand_in = self._start_one(worker.worker_id)
            except RuntimeError:  # then this one has to do without
                return False
            if not self._serves(stand_in):
                return False
            self._held.add(worker)
        return True

    def _serves(self, worker: SyncWorker) -> bool:
        """Wait until it does; forget it if it cannot: there are no descriptors for its loop. The caller holds the
        lock."""
        worker.started.wait()
        if worker.failure is None:
            return True
        del self._workers[worker]
        self._put_back(worker)
        return False

    def _forget_ended(self) -> None:
        """Those that have ended since their stand-in came, or were dismissed. The caller holds the lock."""
        for worker, thread in list(self._workers.items()):
            if worker.retired and not thread.is_alive():
                del self._workers[worker]
                self._held.discard(worker)
                self._requests_of_ended += worker.requests
                self._put_back(worker)

    def _put_back(self, worker: SyncWorker) -> None:
        """What the next thread goes on with."""
        self._logs_of_ended.append(worker.log)
        self._scores.give_back(worker.slot)
