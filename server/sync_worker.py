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
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from ..config import ServerConfig
from .access_log import WorkerLog
from .app_runner import AppRunner
from .asgi.run_sync import InlineCalls
from .conn_queue import ConnectionQueue
from .connection import PROGRESS, REQUESTS, SINCE, Address, Connection, Phase
from .exchange import Exchange
from .farewell import Refuser, dismiss
from .http.events import ProtocolError, RequestReceived
from .lifecycle import LifecycleCollector, recorder
from .memo import ResponseMemo
from .reader import RequestReader
from .request_meta import _classify_request, _RequestMeta, tell_about_websocket
from .sync_app import SyncApp
from .worker_loop import WorkerLoop

if TYPE_CHECKING:
    from .app_loader import ASGIApp
    from .async_pool import AsyncPool

__all__ = ["SyncWorker", "_RequestMeta", "_classify_request"]

logger = logging.getLogger("serverd.worker")

# How often a worker with no queue of the child's looks whether it should stop (seconds); the child's queue wakes it.
POLL_INTERVAL: Final = 0.5


class SyncWorker:
    """See the module. With ``conn_queue`` the worker shares the child's queue; else it accepts from ``sock`` alone."""

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
        access_log: WorkerLog | None = None,
    ) -> None:
        if conn_queue is None and sock is None:
            raise ValueError("a SyncWorker needs a conn_queue or a listening sock")
        if ssl_context is not None:
            raise NotImplementedError("TLS is not yet supported")
        self.config = config
        self.timeouts = config.timeouts
        self.worker_id = worker_id
        self.draining = False
        self.requests = 0
        self.record = recorder(lifecycle_collector)
        self.log = access_log
        self._sock = sock
        self._async_pool = async_pool
        self._shutdown = shutdown_event
        self._shared = conn_queue is not None
        self.queue = conn_queue or ConnectionQueue(config.timeouts, record=self.record)
        self._refuser = Refuser(self.queue, access_log)
        self._reader = RequestReader(config.limits)
        self._runner = AppRunner(self, app, sync_app, self._ended, config.workers.root_path)
        self._pending = self._runner.pending
        self._poll_interval: float | None = None
        self._on_loop = False
        self._over = False
        self._tick: asyncio.TimerHandle | None = None
        self.started = threading.Event()  # set when the thread serves, or has failed to begin
        self.failure: OSError | None = None
        self.heads = ResponseMemo()
        self.loop: WorkerLoop

    # -- for the child's main thread ---------------------------------------------------------------------------------

    def set_lifespan_state(self, state: dict[str, Any]) -> None:
        """The lifespan's state; every request gets its own shallow copy. Before ``run``."""
        self._runner.scopes.state = state

    def start_draining(self) -> None:
        """Say ``Connection: close`` from now on. Any thread: one attribute is set once."""
        self.draining = True

    def is_idle(self) -> bool:
        """True if no request is being handled now, and none has left a task behind that still runs."""
        return self._runner.current is None and not self._pending and not self.left_behind()

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
            self.started.set()

    def _run_from_queue(self, poll_interval: float, runner: asyncio.Runner) -> None:
        """Serve what the queue gives until it is closed. ``poll_interval``: seconds between looks at the shutdown
        event; 0 waits until somebody calls ``ConnectionQueue.wake``."""
        loop = runner.get_loop()
        assert isinstance(loop, WorkerLoop)
        self.loop = loop
        self._poll_interval = poll_interval or None
        calls = InlineCalls(self._runner.may_block)
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
        self._over = True  # the runner now runs the loop once more, to cancel what is left
        loop.remove_reader(self.queue.fileno())

    def _run_accept_loop(self, poll_interval: float, runner: asyncio.Runner) -> None:
        """The simple form: one worker with a listening socket of its own, and a queue of its own behind it."""
        assert self._sock is not None
        self.queue.add_listener(self._sock)
        self._run_from_queue(poll_interval, runner)
        self.queue.release()

    def _finished(self) -> bool:
        asked = self.queue.closed or (self._shutdown is not None and self._shutdown.is_set())
        return asked and not self._pending

    def _turn_safely(self, runner: asyncio.Runner | None) -> None:
        """A mistake of ours ends a turn, but never the thread."""
        try:
            if not self._over:
                self._turn(runner)
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
            self._on_loop = False
            loop.remove_reader(self.queue.fileno())
        while not self._pending and not loop.busy:
            conn = get(interval)
            if conn is not None:
                handle(conn, conn.peer, runner)
            elif self._finished():
                loop.stop()
                return
            else:
                self._keep_house()
        self._on_loop = True
        loop.add_reader(self.queue.fileno(), self._on_ready, runner)
        if interval is not None:
            self._tick = loop.call_later(interval, self._settle)

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
            self.loop.remove_reader(self.queue.fileno())  # its wake-up stays readable for good
            self._on_loop = False
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
            self._on_loop = False
            self.loop.remove_reader(self.queue.fileno())
            self.loop.call_soon(self._turn_safely, None)

    # -- one connection ----------------------------------------------------------------------------------------------

    def _handle_connection(
        self, conn: Connection, addr: Address | None, runner: asyncio.Runner | None
    ) -> None:
        """Carry a ready connection through its request-response cycles as far as they go now."""
        try:
            self._handle_connection_impl(conn, addr, runner)
        except EOFError, OSError:
            self.queue.close(conn)
        except Exception:
            logger.exception("connection %d: internal error; it is closed", conn.id)
            self.queue.close(conn)
        if self.draining:
            self.queue.notice()

    def _handle_connection_impl(
        self, conn: Connection, addr: Address | None, runner: asyncio.Runner | None
    ) -> bool:
        """True if an exchange on ``conn`` goes on in this thread's loop."""
        phase = conn.phase
        if phase == Phase.WRITING:
            if not self._write_on(conn):
                return False
        elif phase == Phase.LINGERING:
            self._linger_on(conn)
            return False
        while True:
            try:
                request, body = self._recv_request_fast(conn)
            except ProtocolError as exc:
                self._send_error(conn, exc.status, exc.message)
                return False
            if request is None:
                self.queue.park(conn, keep_deadline=conn.numbers[SINCE] > 0)
                return False
            if request.upgrade:
                tell_about_websocket(request)
            conn.move(Phase.RUNNING)
            conn.numbers[REQUESTS] += 1
            self.requests += 1
            exchange = self._runner.start(conn, request, body)
            if not exchange.owns:
                return not exchange.done
            exchange.owns = False

    def _recv_request_fast(self, conn: Connection) -> tuple[RequestReceived | None, bytes]:
        """The next complete request and its body, or (None, b"") when the connection has to wait for more.

        Raises ProtocolError, EOFError (the client closed its side), OSError.
        """
        return self._reader.read(conn) or (None, b"")

    def decode(self, conn: Connection, data: bytes) -> bytes:
        """For a body that the application reads as it comes. Raises ProtocolError."""
        return self._reader.decode(conn, data)

    def _ended(self) -> None:
        """A call of the application that had to wait in the loop, or the last task it left there, is over."""
        if self.draining:
            self.queue.notice()
        self._settle()

    def go_on(self, conn: Connection) -> None:
        """Serve the next request of a connection that this worker owns. In the loop."""
        self._handle_connection(conn, conn.peer, None)

    def _write_on(self, conn: Connection) -> bool:
        """Send more of a finished response. True when it is all sent and the next request is already here."""
        if conn.flush():
            return dismiss(self.queue, conn, conn.keep_alive)
        enough = conn.taken >= PROGRESS
        if enough:
            conn.taken = 0
        self.queue.park(conn, keep_deadline=not enough)
        return False

    def _linger_on(self, conn: Connection) -> None:
        """Throw away what a client still sends after the last response."""
        if conn.take() == b"":
            self.queue.close(conn)
        else:
            self.queue.park(conn, keep_deadline=True)

    # -- answers without the application -----------------------------------------------------------------------------

    def _send_error(self, conn: Connection, status: int, message: str) -> None:
        """Answer ``status`` with one line of plain text, and close once the client could read it."""
        self._refuser.refuse(conn, status, message)

    def _cached_date_header(self) -> bytes | None:
        """The value of Date (RFC 9110 6.6.1), made at most once a second."""
        return self.heads.tick()
