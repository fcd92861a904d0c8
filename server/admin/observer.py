"""Who looks at the daemon: when somebody asks, and once a second for a while after that.

Promises: nobody asks, nothing happens (no timer, no look); many who ask at once share one look; how long there has been
no idle thread is known to a second as long as somebody asks at least once a minute, as probes do. Refuses: to decide
(``health``).

Threads: all of it belongs to the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from .health import Capacity
from .snapshot import Snapshot

# Between two looks while somebody is interested, and how long an interest lasts: probes and scrapes come every 5 to
# 60 s.
PERIOD: Final = 1.0
INTEREST: Final = 65.0
# A snapshot so young is as good as a new one. Reading one of 64 threads takes about half a millisecond.
FRESH: Final = 0.01

type Read = Callable[[], Snapshot | None]


class Observer:
    """See the module. ``read`` gives None as long as the master has published nothing."""

    def __init__(self, read: Read) -> None:
        self.capacity = Capacity()
        self._read = read
        self._snapshot: Snapshot | None = None
        self._looked_at = float("-inf")
        self._asked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._turn = asyncio.Event()  # set at the next look of the timer, and then replaced

    def look(self) -> Snapshot | None:
        """The daemon now, or a moment ago."""
        self._asked_at = monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)
        if self._asked_at - self._looked_at > FRESH:
            self._take()
        return self._snapshot

    async def next(self) -> Snapshot | None:
        """The daemon at the next look of the timer."""
        self._asked_at = monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)
        await self._turn.wait()
        return self._snapshot

    def close(self) -> None:
        """No more looks."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        if monotonic() - self._asked_at < INTEREST:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)
        turn, self._turn = self._turn, asyncio.Event()
        try:
            self._take()
        finally:
            turn.set()

    def _take(self) -> None:
        self._looked_at = monotonic()
        self._snapshot = self._read()
        if self._snapshot is not None:
            self.capacity.look(self._snapshot)
