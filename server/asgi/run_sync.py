"""Blocking calls stay where they are: ``asyncio.to_thread``, anyio and asgiref run them inline on a SyncWorker.

A SyncWorker may block, so handing a blocking function to another thread only costs (FastAPI ``def`` endpoints were
measured 6 times slower that way: anyio starts a thread for each root task). Promises: the function sees no running
event loop and no current task, as in a thread of its own, so it may call ``asyncio.run`` or Django's ORM; context
variables behave as the library documents. Refuses to run inline while anything else waits in this worker's loop
(another request would be held up, a task of the same request may be what the call waits for), once the response has
begun (what streams may go on for long), when the caller names a limiter or an executor of its own, and on any
thread that is no SyncWorker: then the library does what it always did.

Known limit: ``anyio.from_thread.run`` and other calls back into the loop cannot work from an inline function, as
the loop stands still meanwhile; anyio raises its RuntimeError "can only be run from an AnyIO worker thread".

Threads: the patches are made once, by the child's main thread before workers start; each worker's ``InlineCalls`` is in
a thread-local and belongs to that worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import logging
import sys
import threading
from asyncio import events, tasks
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger("serverd.worker")

_here = threading.local()


class InlineCalls:
    """What one worker's thread may run inline; ``may_block`` says if it may now."""

    def __init__(self, may_block: Callable[[], bool]) -> None:
        self.may_block = may_block

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Make the current thread one that runs blocking calls inline."""
        _here.calls = self
        try:
            yield
        finally:
            del _here.calls

    def run_in_executor(self, func: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any] | None:
        """For ``WorkerLoop.run_in_executor``: a future that is done already, or None when it must go elsewhere."""
        if not self.may_block():
            return None
        future: asyncio.Future[Any] = events.get_running_loop().create_future()
        try:
            future.set_result(call_blocking(func, *args))
        except Exception as exc:  # noqa: BLE001 - it is the caller's, through the future
            future.set_exception(exc)
        return future


def call_blocking(func: Callable[..., Any], *args: Any) -> Any:
    """Call ``func`` as if this thread had no event loop, then go on as before."""
    loop = events.get_running_loop()
    # Without the first, a loop that func runs could not enter a task ("another task is being executed").
    task = tasks._swap_current_task(loop, None)  # type: ignore[attr-defined]
    events._set_running_loop(None)
    loop.blocked = True  # type: ignore[attr-defined]  # it is a WorkerLoop
    try:
        return func(*args)
    finally:
        loop.blocked = False  # type: ignore[attr-defined]
        events._set_running_loop(loop)
        tasks._swap_current_task(loop, task)  # type: ignore[attr-defined]


def _allowed() -> bool:
    calls: InlineCalls | None = getattr(_here, "calls", None)
    return calls is not None and calls.may_block()


def patch_libraries() -> None:
    """Teach the loaded libraries to ask first. After the application's import; calling it again patches what is new."""
    for name, patch in (("anyio", _patch_anyio), ("asgiref.sync", _patch_asgiref)):
        if name in sys.modules:
            try:
                patch()
            except (ImportError, AttributeError) as exc:
                logger.warning(
                    "blocking calls of %s go to threads (slower): this version is not known: %s", name, exc
                )


def _patch_anyio() -> None:
    backend = importlib.import_module("anyio._backends._asyncio").AsyncIOBackend
    original = backend.run_sync_in_worker_thread.__func__
    if getattr(original, "inline", False):
        return

    @functools.wraps(original)
    async def run_sync_in_worker_thread(
        cls: Any, func: Callable[..., Any], args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        if limiter is None and _allowed():
            return call_blocking(contextvars.copy_context().run, func, *args)
        return await original(cls, func, args, abandon_on_cancel, limiter)

    run_sync_in_worker_thread.inline = True  # type: ignore[attr-defined]
    backend.run_sync_in_worker_thread = classmethod(run_sync_in_worker_thread)


def _patch_asgiref() -> None:
    cls = importlib.import_module("asgiref.sync").SyncToAsync
    original = cls.__call__
    if getattr(original, "inline", False):
        return

    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # An executor of its own is a choice of the application; thread_sensitive=False is asgiref's default pool.
        if self._executor is None and _allowed():
            return call_blocking(functools.partial(self.func, *args, **kwargs))
        return await original(self, *args, **kwargs)

    call.inline = True  # type: ignore[attr-defined]
    cls.__call__ = call
