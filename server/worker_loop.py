"""The event loop of one SyncWorker: asyncio's own, and it knows whether it still has something to do.

A worker blocks in the connection queue inside a callback of this loop, so that every request sees a running loop. It
may do that only while the loop itself has nothing to do: ``busy`` says so. Promises: ``busy`` is never False while a
task that the application left behind, a ready callback or a timer waits. Refuses: executors for the default
``run_in_executor(None, …)`` of ``asyncio.to_thread``: such a call runs at once on this thread when ``inline``
allows it.

Belongs to one thread, but for ``call_soon_threadsafe``. A callback that another thread schedules while the worker is
blocked in the queue runs when the next connection wakes this worker.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from .waking_loop import WakingLoop


class WorkerLoop(WakingLoop):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.left_behind = 0  # tasks of the application, other than its requests, that have not ended
        self.blocked = False  # a blocking call runs inline: nothing of this loop can run until it returns
        self.on_idle: Callable[[], None] | None = None
        # Runs a blocking callable on this thread, or says that it must not (returns None): see asgi.run_sync.
        self.inline: Callable[[Callable[..., Any], tuple[Any, ...]], asyncio.Future[Any] | None] | None = None
        self.set_task_factory(self._create)

    @property
    def busy(self) -> bool:
        """Whether a callback, a timer or a task of this loop (other than the worker's own requests) waits."""
        # BaseEventLoop has no public view of these; they have had these names since Python 3.4 and 3.5, and
        # tests/test_worker_loop.py fails when they are renamed.
        timers = len(self._scheduled) - self._timer_cancelled_count  # type: ignore[attr-defined]
        return bool(self.left_behind or timers > 0 or self._ready)  # type: ignore[attr-defined]

    def waiting_lists(self) -> tuple[Collection[Any], Collection[Any]]:
        """The callbacks that are ready and the timers, some perhaps cancelled: for ``busy`` without its call, as long
        as the loop does not turn."""
        return self._ready, self._scheduled  # type: ignore[attr-defined]

    def call_soon_threadsafe(  # type: ignore[override]  # as run_in_executor
        self, *args: Any, **kwargs: Any
    ) -> asyncio.Handle:
        """As asyncio's. Raises RuntimeError in a call that runs inline, which would wait for itself for ever."""
        if self.blocked and threading.get_ident() == self._thread_id:  # type: ignore[attr-defined]
            raise RuntimeError(
                "serverd runs this blocking call on its event loop's own thread, so it cannot wait for that loop: "
                "pass a limiter or an executor of your own to have a thread of its own for it"
            )
        return super().call_soon_threadsafe(*args, **kwargs)

    def run_in_executor(  # type: ignore[override]  # the base has a TypeVarTuple that we do not need
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's; with no executor named, inline where that is allowed."""
        if executor is None and self.inline is not None:
            done = self.inline(func, args)
            if done is not None:
                return done
        return super().run_in_executor(executor, func, *args)

    def _create(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        """Tasks that applications make are counted until they end."""
        task = asyncio.Task(coro, loop=loop, **kwargs)
        if not task.done():
            self.left_behind += 1
            task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.left_behind -= 1
        if self.left_behind == 0 and self.on_idle is not None:
            self.on_idle()
