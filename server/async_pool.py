"""The child's home event loop, in a thread of its own: the lifespan runs here, what an application starts in it,
and what of its requests is long (see ``home``).

Promises: the loop runs from ``start`` to ``stop``, so a background task that the lifespan made lives as long as the
child. Refuses: to end because a task of the application raised SystemExit, or because a system call failed once.

Threads: ``start``, ``serve``, ``guard``, ``alert``, ``drain`` and ``stop`` belong to the child's main thread; ``call``
and ``take`` may be used from any other thread than the loop's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from ..config import ServerConfig
from .access_log import WorkerLog
from .conn_queue import ConnectionQueue
from .connection import Connection
from .exchange import Exchange
from .home import Home
from .http.events import RequestReceived
from .lifecycle import LifecycleCollector
from .listening import rest_after
from .shedding import Gate
from .slots import Slot
from .stacks import Held
from .waking_loop import WakingLoop

if TYPE_CHECKING:
    from .app_loader import ASGIApp

logger = logging.getLogger("serverd.worker")

# How long the loop's own shutdown (cancelled tasks, async generators) may take at the end of a child, in seconds.
_CLOSING: Final = 5.0

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class AsyncPool:
    """See the module. ``loop``: "auto" (uvloop when it is installed), "asyncio" or "uvloop" (raises ImportError)."""

    def __init__(self, loop: str = "asyncio") -> None:
        self._runner = asyncio.Runner(loop_factory=_loop_factory(loop))
        self._over = False
        self._running = threading.Event()  # or it cannot run, and `_failure` says why
        self._failure: Exception | None = None
        self._home: Home | None = None
        # A daemon: a lifespan that never ends must not keep the child from exiting.
        self._thread = threading.Thread(target=self._run, name="serverd-home", daemon=True)

    def start(self) -> None:
        """Start the thread; returns when the loop runs. Raises OSError when there are no descriptors for it."""
        self._thread.start()
        self._running.wait()
        if self._failure is not None:
            self._thread.join()  # it ends at once; `stop` must not find it alive
            raise self._failure

    def call[T](self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run ``coro`` in the home loop."""
        return asyncio.run_coroutine_threadsafe(coro, self._runner.get_loop())

    def serve(
        self,
        config: ServerConfig,
        app: ASGIApp,
        queue: ConnectionQueue,
        *,
        state: dict[str, Any] | None = None,
        access_log: WorkerLog | None = None,
        slot: Slot | None = None,
        lifecycle_collector: LifecycleCollector | None = None,
    ) -> None:
        """Serve ``app`` here from now on: what ``take`` brings, and with a ``LoopQueue`` all that it gives."""

        async def make() -> Home:
            home = Home(
                config,
                app,
                queue,
                access_log=access_log,
                slot=slot,
                lifecycle_collector=lifecycle_collector,
            )
            if state is not None:
                home.set_lifespan_state(state)
            return home

        self._home = self.call(make()).result()

    def take(self, conn: Connection, request: RequestReceived, body: bytes) -> None:
        """Serve a request whose head (and buffered body) a worker has read; the connection is the home loop's now."""
        assert self._home is not None
        self._home.take(conn, request, body)

    def start_draining(self) -> None:
        """Answer with ``Connection: close`` from now on."""
        if self._home is not None:
            self._home.start_draining()

    def drain(self) -> None:
        """End what clients will begin anew elsewhere, finish everything else."""
        if self._home is not None:
            self._home.drain()

    def guard(self, gate: Gate) -> None:
        """Have the home loop ask ``gate`` while ``alert`` is on."""
        if self._home is not None:
            self._home.gate = gate

    def alert(self, on: bool) -> None:
        """Whether the gate wants to hear of requests."""
        if self._home is not None:
            self._home.alert = on

    def give_up(self) -> None:
        """Cut off what is still served here."""
        if self._home is not None:
            self._home.give_up()

    def is_idle(self) -> bool:
        """Whether no request is served here."""
        return self._home is None or self._home.is_idle()

    def held(self) -> dict[int, Held]:
        """What it serves at the moment, by the number of its thread."""
        ident = self._thread.ident
        return {} if self._home is None or ident is None else {ident: self._home.held()}

    def in_flight(self) -> list[Exchange]:
        """The requests of this moment; they may end while the caller looks at them."""
        return [] if self._home is None else self._home.in_flight()

    @property
    def requests(self) -> int:
        """How many it has read itself (those that were handed over count where they were read)."""
        return 0 if self._home is None else self._home.requests

    def stop(self) -> bool:
        """Cancel what is left and end the loop. False if it did not end within ``_CLOSING`` seconds."""
        if self._thread.is_alive():
            self._over = True
            self._runner.get_loop().call_soon_threadsafe(self._runner.get_loop().stop)
            self._thread.join(_CLOSING)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            loop = self._runner.get_loop()
        except Exception as exc:  # noqa: BLE001 - it is raised in the thread that waits for this one
            self._failure = exc
            self._running.set()
            return
        with self._runner:
            loop.call_soon(self._running.set)
            while not self._over:
                try:
                    loop.run_forever()
                except SystemExit, KeyboardInterrupt:
                    # asyncio passes these on after it gave them to their task.
                    logger.warning("a task of the application raised SystemExit in the home loop; it goes on")
                except OSError as exc:
                    # Of its epoll_wait: what a callback raises goes to the loop's exception handler.
                    rest_after(exc)
            if self._home is not None:
                self._home.close()


def _loop_factory(kind: str) -> LoopFactory:
    """What makes the loop. Raises ImportError for a uvloop that is not there."""
    if kind == "asyncio":
        return WakingLoop
    try:
        factory: LoopFactory = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        if kind == "uvloop":
            raise
        return WakingLoop
    return factory
