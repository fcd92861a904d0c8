"""The home loop as a worker: requests that are long (WebSocket, event streams, ``async_paths``), and all of ``mode:
async``.

Promises: a connection that was handed over is served with its head and what was received behind it, and goes back
to the child's queue when the response is complete; in ``mode: async`` connections live here from accept on.
Framing, limits, log and events are the workers' own (``serving``). Refuses: blocking calls inline, which would stop
every other client; they go to the libraries' threads.

Threads: ``take`` and ``drain`` are for any thread, ``is_idle`` and ``in_flight`` are hints for any thread; all else
belongs to the home loop's.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from ..config import ServerConfig
from .access_log import WorkerLog
from .conn_queue import ConnectionQueue
from .connection import Connection
from .exchange import Exchange
from .http.events import RequestReceived
from .lifecycle import LifecycleCollector, recorder
from .loop_queue import LoopQueue
from .loop_watcher import LoopWatcher
from .routes import router
from .serving import Serving
from .slots import LOOP, Slot

if TYPE_CHECKING:
    from .app_loader import ASGIApp

logger = logging.getLogger("serverd.worker")

# The number of the home loop among the workers, in logs and events.
HOME = -1


class Home(Serving):
    """See the module. Made in its loop's thread; with a ``LoopQueue`` it serves everything itself."""

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        queue: ConnectionQueue,
        *,
        access_log: WorkerLog | None = None,
        slot: Slot | None = None,
        lifecycle_collector: LifecycleCollector | None = None,
    ) -> None:
        super().__init__(
            config,
            queue,
            app,
            worker_id=HOME,
            route=router(config.workers.async_paths),
            record=recorder(lifecycle_collector),
            access_log=access_log,
            slot=slot,
            websockets=True,
        )
        self.slot.enter(LOOP)
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        self.watcher: LoopWatcher = LoopWatcher(self.loop)
        self._arrived: deque[tuple[Connection, RequestReceived, bytes]] = deque()
        self._told = False
        self._stepping = False  # requests begin: one that is in its first step is nowhere else
        self._own: LoopQueue | None = None
        if isinstance(queue, LoopQueue):
            self._own = queue
            queue.thread = threading.get_ident()
            self.loop.add_reader(queue.fileno(), self._serve, queue)

    # -- for other threads -------------------------------------------------------------------------------------------

    def take(self, conn: Connection, request: RequestReceived, body: bytes) -> None:
        """Serve ``request`` from now on; the caller's ownership of ``conn`` passes on. Raises RuntimeError at the end
        of the loop."""
        # A deque's operations are atomic. `_told` is cleared before the deque is emptied, so no arrival is overlooked.
        self._arrived.append((conn, request, body))
        if not self._told:
            self._told = True
            self.loop.call_soon_threadsafe(self._welcome, context=self.context)

    def drain(self) -> None:
        """Answer on with ``Connection: close``; end what clients will begin anew elsewhere: WebSockets, event
        streams."""
        self.start_draining()
        self.ending = True
        self.loop.call_soon_threadsafe(self._drain)

    def give_up(self) -> None:
        """Cut off what is in flight: the child ends."""
        self.loop.call_soon_threadsafe(self._cut_all)

    def is_idle(self) -> bool:
        """Whether nothing is being handled."""
        return not (self._stepping or self._arrived or self._runner.pending or self._runner.current)

    def in_flight(self) -> list[Exchange]:
        """The exchanges of this moment; they may end while the caller looks at them."""
        return list(self._runner.pending.values())

    # -- in the loop -------------------------------------------------------------------------------------------------

    def go_on(self, conn: Connection) -> None:
        """The next request of ``conn`` is here already: in ``mode: sync`` it is a worker's."""
        if self._own is None:
            self.queue.park(conn, at_once=True)
        else:
            self._handle_connection(conn, conn.peer, None)

    def close(self) -> None:
        """Watch nothing any more, before the loop is closed."""
        self.watcher.close()
        if self._own is not None:
            self.loop.remove_reader(self._own.fileno())

    def _serve(self, queue: LoopQueue) -> None:
        self._stepping = True
        for conn in queue.ready():
            self._handle_connection(conn, conn.peer, None)
        self._stepping = False
        if queue.closed:
            self.loop.remove_reader(queue.fileno())  # its wake-up stays readable for good

    def _welcome(self) -> None:
        self._told = False
        arrived = self._arrived
        self._stepping = True
        while arrived:
            conn, request, body = arrived.popleft()
            try:
                exchange = self._runner.start(conn, request, body)
            except Exception:
                logger.exception("connection %d: internal error; it is closed", conn.id)
                self.queue.close(conn)
                continue
            if exchange.owns:
                exchange.owns = False
                self.go_on(conn)
        self._stepping = False

    def _cut_all(self) -> None:
        for exchange in self.in_flight():
            exchange.cut()

    def _drain(self) -> None:
        for exchange in self.in_flight():
            try:
                exchange.drain()
            except Exception:
                logger.exception("connection %d: internal error in draining; it is cut", exchange.conn.id)
                exchange.cut()
        self.queue.notice()
