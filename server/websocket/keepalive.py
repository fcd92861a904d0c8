"""Whether a silent client is still there: pings, and the patience for an answer (RFC 6455 5.5.2).

Promises: a client from which nothing came for ``interval`` is sent a ping; when nothing at all comes for ``timeout``
after it, the client counts as lost (any frame will do: one that is busy sending need not answer first). There is one
timer for each connection, and nothing is done for each message but to note the time. Refuses: to hold against a client
what the server does not read.

Belongs to its connection's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic


class KeepAlive:
    """See the module. ``heard``: when something came last, ``time.monotonic()``; whoever reads sets it.

    listening: whether anything is read now. ping: sends one, and may end all of this. lost: is called once.
    timeout: 0 for ever.
    """

    __slots__ = (
        "_interval",
        "_listening",
        "_loop",
        "_lost",
        "_ping",
        "_pinged",
        "_timeout",
        "_timer",
        "heard",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        timeout: float,
        *,
        listening: Callable[[], bool],
        ping: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._timeout = timeout
        self._listening = listening
        self._ping = ping
        self._lost = lost
        self._pinged = 0.0  # when the last ping was sent
        self.heard = monotonic()
        self._timer: asyncio.TimerHandle | None = loop.call_later(interval, self._beat)

    def stop(self) -> None:
        """No more pings. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        interval, timeout = self._interval, self._timeout
        now = monotonic()
        quiet = now - self.heard
        if not self._listening():
            self.heard = now
            again = interval
        elif quiet < interval:
            again = interval - quiet
        elif self.heard > self._pinged or not timeout:
            self._pinged = now
            again = min(timeout or interval, interval)
            self._ping()
        elif (left := self._pinged + timeout - now) > 0:
            again = min(left, interval)
        else:
            self._timer = None
            self._lost()
            return
        if self._timer is not None:  # else the ping found the client gone
            self._timer = self._loop.call_later(again, self._beat)
