"""SyncWorker: a thread that takes one complete request after another, runs the application, and answers.

Promises: the application is called exactly once for each request; nothing that a client or an application does ends the
thread; no client holds it (whatever must wait is parked in the connection queue, or waits in this thread's event loop
while the thread goes on serving). Refuses: incomplete requests, which it never starts.

How it runs: the worker's whole life is one callback of its own event loop, blocked in ``ConnectionQueue.get``. A
request starts as an eager task; nearly all finish there and then, and the worker takes the next. When one waits
(``pending``), the callback returns, the loop turns, and the queue's epoll becomes one of the loop's readers: so a
coroutine that sleeps or streams stays on its thread and in its loop, and the thread serves on. When none waits any
more it blocks again.

Threads: a SyncWorker belongs to the thread that calls ``run``. Others may call ``start_draining``, ``is_idle`` and
``in_flight``, which write or read single attributes; ``set_lifespan_state`` is for before ``run``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..config import ServerConfig
from .access_log import WorkerLog
from .asgi.run_sync import InlineCalls
from .conn_queue import ConnectionQueue
from .connection import Connection
from .exchange import Exchange
from .http.events import RequestReceived
from .lifecycle import LifecycleCollector, recorder
from .listening import PAUSE, rest_after, say_failed
from .request_meta import _classify_request, _RequestMeta
from .routes import all_on_threads, router
from .serving import Serving
from .slots import Slot
from .sync_app import SyncApp
from .tls import tls_connections
from .worker_loop import WorkerLoop

if TYPE_CHECKING:
    from .app_loader import ASGIApp, WSGIApp
    from .async_pool import AsyncPool

__all__ = ["SyncWorker", "_RequestMeta", "_classify_request"]

logger = logging.getLogger("serverd.worker")

# How often a worker with no queue of the child's looks whether it should stop (seconds); the child's queue wakes it.
POLL_INTERVAL: Final = 0.5


class SyncWorker(Serving):
    """See the module. With ``conn_queue`` the worker shares the child's queue; else it accepts from ``sock`` alone.

    With ``async_pool`` what is known to be long from its head is handed over to it. ``relief`` is called, on this
    thread, when a client is about to hold it: it starts another worker in its place and returns True, or False.
    ``dismissal`` is asked, on this thread, when it was woken for nothing: whether it is not needed any more.
    """

    loop: WorkerLoop

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        sock: socket.socket | None,
        *,
        worker_id: int = 0,
        shutdown_event: threading.Event | None = None,
        ssl_context: ssl.SSLContext | None = None,
        lifecycle_collector: LifecycleCollector | None = None,
        async_pool: AsyncPool | None = None,
        conn_queue: ConnectionQueue | None = None,
        sync_app: SyncApp | None = None,
        wsgi_app: WSGIApp | None = None,
        access_log: WorkerLog | None = None,
        slot: Slot | None = None,
        relief: Callable[[SyncWorker], bool] | None = None,
        dismissal: Callable[[SyncWorker], bool] | None = None,
    ) -> None:
        if conn_queue is None and sock is None:
            raise ValueError("a SyncWorker needs a conn_queue or a listening sock")
        record = recorder(lifecycle_collector)
        if conn_queue is None:
            make = Connection if ssl_context is None else tls_connections(ssl_context)
            queue = ConnectionQueue(config.timeouts, record=record, make_connection=make)
        super().__init__(
            config,
            conn_queue or queue,
            app,
            worker_id=worker_id,
            route=router(config.workers.async_paths) if async_pool is not None else all_on_threads,
            record=record,
            access_log=access_log,
            sync_app=sync_app,
            wsgi_app=wsgi_app,
            slot=slot,
        )
        self.retired = (
            False  # another worker has taken its place, or none is needed: it ends with its request
        )
        self._sock = sock
        self._async_pool = async_pool
        self._relief = relief
        self._dismissal = dismissal
        self._shutdown = shutdown_event
        self._shared = conn_queue is not None
        self._pending = self._runner.pending
        self._poll_interval: float | None = None
        self._on_loop = False
        self._over = False
        self._tick: asyncio.TimerHandle | None = None
        self.started = threading.Event()  # set when the thread serves, or has failed to begin
        self.failure: OSError | None = None

    # -- for the child's main thread ---------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """True if no request is being handled now, and none has left a task behind that still runs."""
        return self._runner.current is None and not self._pending and not self.left_behind()

    def is_busy(self) -> bool:
        """True while the application runs on this thread, as far as another thread can tell."""
        return self._runner.current is not None

    def left_behind(self) -> int:
        """How many tasks of the application, beside its requests, still run here. Any thread; 0 before ``run``."""
        return self.loop.left_behind if self.started.is_set() else 0

    def in_flight(self) -> list[Exchange]:
        """The exchanges of this moment. Any thread; they may end while the caller looks at them."""
        current = self._runner.current
        waiting: list[Exchange] = list(self._pending.values())
        return [*waiting, current] if current is not None and current not in waiting else waiting

    # -- the thread's life -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until shutdown: blocks. The calling thread becomes the worker's thread.

        Without descriptors for its event loop it ends at once, and ``failure`` says why.
        """
        self.slot.enter()
        try:
            with asyncio.Runner(loop_factory=WorkerLoop) as runner:
                if self._shared:
                    self._run_from_queue(POLL_INTERVAL if self._shutdown is not None else 0, runner)
                else:
                    self._run_accept_loop(POLL_INTERVAL, runner)
        except OSError as exc:
            self.failure = exc
            logger.error("worker %d cannot run: %s", self.worker_id, exc)
        finally:
            self.slot.leave()
            self.started.set()

    def _run_from_queue(self, poll_interval: float, runner: asyncio.Runner) -> None:
        """Serve what the queue gives until it is closed. ``poll_interval``: seconds between looks at the shutdown
        event; 0 waits until somebody calls ``ConnectionQueue.wake``."""
        loop = runner.get_loop()
        assert isinstance(loop, WorkerLoop)
        self.loop = self.watcher = loop
        self.context = contextvars.copy_context()
        self._poll_interval = poll_interval or None
        calls = InlineCalls(self.may_block)
        loop.on_idle = self._ended
        loop.inline = calls.run_in_executor
        loop.call_soon(self._turn_safely, runner)
        self.started.set()
        with calls.installed():
            while not self._finished():
                try:
                    loop.run_forever()
                except SystemExit, KeyboardInterrupt:
                    # asyncio passes these on after it gave them to their task: that request is answered, we go on.
                    loop.call_soon(self._turn_safely, runner)
                except OSError as exc:  # of its epoll_wait: what a callback raises does not come here
                    rest_after(exc)
        self._over = True  # the runner now runs the loop once more, to cancel what is left
        if self._on_loop:
            self._leave_loop()

    def _run_accept_loop(self, poll_interval: float, runner: asyncio.Runner) -> None:
        """The simple form: one worker with a listening socket of its own, and a queue of its own behind it."""
        assert self._sock is not None
        self.queue.add_listener(self._sock)
        self._run_from_queue(poll_interval, runner)
        self.queue.release()

    def _finished(self) -> bool:
        asked = self.retired or self.queue.closed or (self._shutdown is not None and self._shutdown.is_set())
        return asked and not self._pending

    def _turn_safely(self, runner: asyncio.Runner | None) -> None:
        """A mistake of ours ends a turn, but never the thread."""
        try:
            if not self._over:
                self._turn(runner)
        except OSError as exc:  # no memory to make the queue one of this loop's readers
            say_failed("epoll_ctl", exc)
            self.loop.call_later(PAUSE, self._turn_safely, runner)
        except Exception:
            logger.exception("worker %d: internal error; it goes on", self.worker_id)
            self.loop.call_later(POLL_INTERVAL, self._turn_safely, runner)

    def _turn(self, runner: asyncio.Runner | None) -> None:
        """Block in the queue and serve, as long as nothing else waits in this thread's loop."""
        loop = self.loop
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._finished():
            loop.stop()
            return
        get = self.queue.get
        handle = self._handle_connection
        interval = self._poll_interval
        if self._on_loop:
            self._leave_loop()
        pending, ready, timers = self._pending, *loop.waiting_lists()
        while not (pending or ready or loop.left_behind or self.retired or (timers and loop.busy)):
            conn = get(interval)
            if conn is not None:
                handle(conn, conn.peer, runner)
            elif self._finished() or self._dismissed():
                loop.stop()
                return
            else:
                self._keep_house()
        if self._finished():
            loop.stop()
            return
        self._on_loop = True
        self.queue.events.fall_asleep()
        loop.add_reader(self.queue.fileno(), self._on_ready, runner)
        if interval is not None:
            self._tick = loop.call_later(interval, self._settle)

    def _dismissed(self) -> bool:
        """Whether this worker, which was idle until now, is one too many. Not with anything waiting in its loop."""
        return self._dismissal is not None and not self.loop.busy and self._dismissal(self)

    def _keep_house(self) -> None:
        """What the child's main thread does for a shared queue."""
        if not self._shared:
            self.queue.tend(time.monotonic(), self._refuser.expired)

    def _on_ready(self, runner: asyncio.Runner | None) -> None:
        """The queue has something while requests wait in this loop: serve it between their steps."""
        conn = self.queue.get(0)
        if conn is not None:
            self._handle_connection(conn, conn.peer, runner)
        elif self.queue.closed:
            self._leave_loop()  # its wake-up stays readable for good
            if self._finished():
                self.loop.stop()
            return
        self._settle()

    def _settle(self) -> None:
        """Go back to blocking in the queue when no request waits in the loop any more."""
        if self._over:
            return
        if self._finished():
            self.loop.stop()
        elif self._on_loop and (not self._pending or self._poll_interval is not None):
            self._keep_house()
            self._leave_loop()
            self.loop.call_soon(self._turn_safely, None, context=self.context)

    def _leave_loop(self) -> None:
        """The queue is none of this loop's readers any more."""
        self._on_loop = False
        self.loop.remove_reader(self.queue.fileno())
        self.queue.events.wake_up()

    def may_block(self) -> bool:
        """Whether the running request may block the thread: nothing else waits in its loop that it would hold up, or
        wait for, and its response has not begun."""
        if self.loop.left_behind:
            return False
        runner = self._runner
        pending = self._pending
        if not pending:
            return runner.current is None or not runner.current.status
        exchange = pending.get(asyncio.current_task()) if len(pending) == 1 else None  # type: ignore[arg-type]
        return exchange is not None and not exchange.status

    # -- what is not for this thread -------------------------------------------------------------------------------

    def _hand_over(self, conn: Connection, request: RequestReceived, body: bytes) -> bool:
        """Give what will be long to the home loop, before the application is called."""
        assert self._async_pool is not None  # else nothing has a route
        self.queue.mute(conn)
        self._async_pool.take(conn, request, body)
        return True

    def relieve(self) -> bool:
        """See ``Serving``: a stand-in takes over all that comes, and this worker ends with its request."""
        if not self.retired and self._relief is not None and not self._pending:
            self.retired = self._relief(self)
        return self.retired

    def _ended(self) -> None:
        """A call of the application that had to wait in the loop, or the last task it left there, is over."""
        super()._ended()
        self._settle()
