"""What is ready: the events of an epoll, for the threads that share it.

While every other thread is busy, one call of the kernel gives a thread several events: it takes the first, and whoever
is free next takes the others. While one is idle, each call gives one event, so that the kernel wakes one thread for
each. So a request never waits behind another one while a thread could serve it, and a busy child asks the kernel once
for many.

Promises: an event is given to one thread; none stays here while a thread sleeps in the epoll or in a loop of its own.
Refuses: to know what the events are of.

Threads: all of it is for any thread. ``_sleepers`` belongs to the lock; events are put into ``waiting`` under it only,
after a look at the sleepers, and nobody becomes a sleeper without a look at the events, under it too. To take one out,
the deque's own atomic operation is enough.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from .listening import rest_after

# Events that one call of the kernel gives at most. With 16, epoll_wait is 2 % of a small request.
BATCH: Final = 16

Event = tuple[int, int]  # descriptor and mask, as epoll_wait(2) gives them


class ReadyEvents:
    """See the module. ``put_back`` makes the epoll report an event again, as it was not taken here."""

    def __init__(self, epoll: select.epoll, put_back: Callable[[Event], None]) -> None:
        self._poll = epoll.poll
        self._put_back = put_back
        self._lock = threading.Lock()
        self.waiting: deque[Event] = deque()
        self._sleepers = 0

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None when there was none for ``timeout`` seconds (None: for ever), or the call failed.

        Raises IndexError when somebody else was quicker: try again.
        """
        waiting = self.waiting
        if timeout == 0:
            return waiting.popleft() if waiting else self._look()
        with self._lock:
            if waiting:
                return waiting.popleft()
            others = self._sleepers
            self._sleepers = others + 1
        events: list[Event] = []
        try:
            events = self._poll(timeout, 1 if others else BATCH)
        except OSError as exc:
            rest_after(exc)
        finally:
            with self._lock:
                self._sleepers = others = self._sleepers - 1
                if len(events) > 1 and not others:
                    waiting.extend(events[1:])
        if not events:
            return None
        if others:
            for event in events[1:]:
                self._put_back(event)
        return events[0]

    def _look(self) -> Event | None:
        try:
            events = self._poll(0, 1)
        except OSError as exc:
            rest_after(exc)
            return None
        return events[0] if events else None

    def fall_asleep(self) -> None:
        """The calling thread waits in a loop of its own from now on, which watches the epoll."""
        with self._lock:
            self._sleepers += 1
        while self.waiting:
            try:
                event = self.waiting.popleft()
            except IndexError:
                break
            self._put_back(event)

    def wake_up(self) -> None:
        """It does so no more."""
        with self._lock:
            self._sleepers -= 1
