"""A room: what any thread says reaches everyone who listens on the event loop. The bridge of live.py.

This is the pattern for live pages on a server with threads. The rule that it keeps: whatever belongs to an event loop
(its queues, events, tasks, WebSockets) is touched on that loop only. asyncio's objects are not safe for threads, with
or without a GIL; `call_soon_threadsafe` is the one call that other threads may make.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Made on the loop on which everyone will listen: in the lifespan, whose loop serves streams and WebSockets."""

    def __init__(self, backlog: int) -> None:
        """A listener who is `backlog` messages behind misses the oldest: a slow reader costs no memory."""
        self._loop = asyncio.get_running_loop()
        self._backlog = backlog
        self._listeners: set[asyncio.Queue[str]] = set()  # only ever touched on the loop: needs no lock

    def tell(self, message: str = "") -> None:
        """Say something to everyone who listens. Any thread; returns at once."""
        self._loop.call_soon_threadsafe(self._spread, message)

    def _spread(self, message: str) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(message)

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[str]]:
        """A queue of what is said from now on; RuntimeError on any other loop, where it could not wake anybody."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "listening from a worker thread: add the path to workers.async_paths in server.yaml"
            )
        queue: asyncio.Queue[str] = asyncio.Queue(self._backlog)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
