"""The child's home event loop, in a thread of its own: the lifespan runs here, and what an application starts in it.

Promises: the loop runs from ``start`` to ``stop``, so a background task that the lifespan made lives as long as the
child. Refuses: requests (each worker has a loop of its own for those).

Threads: ``start`` and ``stop`` belong to the child's main thread; ``call`` may be used from any other thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any

# How long the loop's own shutdown (cancelled tasks, async generators) may take at the end of a child, in seconds.
_CLOSING = 5.0


class AsyncPool:
    """See the module."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._ended = asyncio.Event()
        self._running = threading.Event()
        # A daemon: a lifespan that never ends must not keep the child from exiting.
        self._thread = threading.Thread(target=self._run, name="serverd-home", daemon=True)

    def start(self) -> None:
        """Start the thread; returns when the loop runs."""
        self._thread.start()
        self._running.wait()

    def call[T](self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run ``coro`` in the home loop."""
        return asyncio.run_coroutine_threadsafe(coro, self._runner.get_loop())

    def stop(self) -> bool:
        """Cancel what is left and end the loop. False if it did not end within ``_CLOSING`` seconds."""
        if self._thread.is_alive():
            self._runner.get_loop().call_soon_threadsafe(self._ended.set)
            self._thread.join(_CLOSING)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._runner as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        self._running.set()
        await self._ended.wait()
