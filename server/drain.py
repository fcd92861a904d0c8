"""How a child ends its service: what was received is answered as long as the order allows; what is cut off is named.

Promises: idle connections go to other children where there are any (``handover``); whoever is told to connect again
comes to another child; the drain ends as soon as nothing is left, at its
deadline, or when the master says stop. Refuses: to end the application or the process (``child``).

Belongs to the child's main thread.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from .app_runner import describe
from .channel import Drain, Stop
from .conn_queue import ConnectionQueue
from .deadlines import SETTLED
from .handover import Departure
from .workforce import Workforce

logger = logging.getLogger("serverd.worker")

# How long the workers may take to leave once nothing is left to serve: they only have to wake up.
_LEAVING: Final = 2.0


class Draining:
    """One drain. ``heirs`` are the ways to the children that take idle connections over. ``wait`` is one turn of the
    child's main thread: it sleeps until something happens, or until the given time, and returns what the master
    ordered."""

    def __init__(
        self,
        queue: ConnectionQueue,
        workers: Workforce,
        heirs: Sequence[socket.socket],
        wait: Callable[[float | None], Drain | Stop | None],
    ) -> None:
        self._queue = queue
        self._workers = workers
        self._departure = Departure(queue, heirs)
        self._wait = wait
        self.deadline = 0.0  # when the time is over; 0: no time was given, or it was taken back
        self.cut: list[str] = []  # what was given up, in words

    def run(self, order: Drain | Stop) -> None:
        """Finish what was received; give up, and name, what could not be; the workers have left then."""
        if isinstance(order, Drain):
            self._finish(order)
        self._departure.end()
        self._cut_off("at the end of timeouts.graceful" if self.deadline else "by a stop at once")

    def _finish(self, order: Drain) -> None:
        self.deadline = time.monotonic() + order.graceful
        close_idle = order.final or order.close_idle
        self._begin(order)
        began = time.monotonic()
        self._departure.hand_over()
        if self._departure.gone:
            took = time.monotonic() - began
            logger.debug("handed %d idle connections over in %.3f s", self._departure.gone, took)
        while not self._finished() and (now := time.monotonic()) < self.deadline:
            further = self._wait(min(self.deadline, now + SETTLED) if close_idle else self.deadline)
            if isinstance(further, Stop):
                self.deadline = 0.0
                return
            if further is not None and not order.final:
                # A retiring child hears that the whole server stops: no attrition any more, and the sooner end.
                self.deadline = min(self.deadline, now + further.graceful)
                close_idle = True
                self._departure.end()
            self._departure.hand_over()
            if close_idle:
                self._queue.close_idle()

    def _begin(self, order: Drain) -> None:
        # In this order: who is told to connect again must come to another child.
        self._queue.stop_accepting(take_backlog=order.final)
        self._departure.begin()
        self._workers.start_draining()

    def _finished(self) -> bool:
        # In this order: the last connection may go while its application still runs, but none comes any more.
        return self._queue.deserted and self._workers.is_idle()

    def _cut_off(self, why: str) -> None:
        """Name the requests that are given up, and let the workers go."""
        now = time.monotonic()
        self.cut = [describe(exchange, now) for exchange in self._workers.in_flight()]
        if tasks := self._workers.left_behind():
            self.cut.append(f"{tasks} background task{'s' * (tasks > 1)} that requests have left behind")
        for line in self.cut:
            logger.warning("cut off %s: %s", why, line)
        self._workers.give_up()
        self._queue.wake()
        self._workers.leave(0.0 if self.cut else _LEAVING)
