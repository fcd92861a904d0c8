"""What a child does about its load: how long requests wait for a thread is measured, threads come and go, the gate
opens and closes.

How the wait is measured: epoll gives out what is ready first in, first out. So while something waits there, a probe (an
eventfd that is always readable, armed ONESHOT) is put behind it, and the time until a worker takes the probe is how
long requests wait now. A request costs nothing for that. While the probe waits for a good part of
``limits.queue_wait``, the workers ask the kernel how long each request has waited (``shedding``).

New connections are one thing that is ready, the listener, however many they are, and the probe would say nothing of
them. So while no thread is idle, or something waits at every look, the queue takes all of the backlog at a time.

Promises: nothing is looked at while the child is quiet: the first request wakes the main thread, which then looks every
``TICK`` until nothing has come for two of them. Refuses: to decide; ``elastic.decide`` and ``shedding.judge`` do.

Threads: everything belongs to the child's main thread, but for the probe while it is in the queue: whichever worker
takes it writes its two numbers. ``delay`` may be called by any thread, and may see one of them old and one new.
"""

from __future__ import annotations

import logging
import os
import select
import time
from typing import Final

from ..config import ServerConfig
from .conn_queue import ConnectionQueue
from .elastic import CALM, CpuMeter, Sample, decide
from .shedding import Gate
from .slots import Slot
from .workforce import Workforce

logger = logging.getLogger("serverd.worker")

# Between two looks while requests come, in seconds: a thread that is missing is there within two or three. Twenty looks
# a second cost about 0.1 % of a CPU.
TICK: Final = 0.05
# A probe that waits no longer than this was taken by an idle thread, or nearly so.
AT_ONCE: Final = 0.002
# So many looks with nothing new, and the main thread sleeps until the next request.
_QUIET: Final = 2
# Where something waits at so many looks in a row, a backlog may stand behind the listener. Half of all looks find
# something when the threads are busy for three quarters of their time.
_ALWAYS: Final = 4
# The workers ask the kernel when the probe waits for so much of the limit; it costs 2 µs for each request.
_CLOSE: Final = 0.25
# A child that has refused nothing for so long is overloaded no more.
_OVER: Final = 5.0
# How long to go without trying again when the machine has no thread left.
_RESIGNED: Final = 10.0
_NEVER: Final = float("inf")


class Probe:
    """One place in the queue, behind all that is ready when it is sent. It is sent again by who takes it, until it is
    taken at once."""

    def __init__(self, queue: ConnectionQueue) -> None:
        self._fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue = queue
        self._look = select.poll()
        self._look.register(queue.fileno(), select.POLLIN)
        self._sent = 0.0  # 0: it is not in the queue
        self._waited = 0.0  # the last time
        self.looks = 0  # how many in a row have found something that waits
        queue.errands.add(self._fd, self._probed)

    @property
    def is_sent(self) -> bool:
        """Whether it is in the queue."""
        return self._sent > 0

    def something_waits(self) -> bool:
        """Whether something is ready and no thread has taken it yet."""
        return bool(self._queue.events.waiting) or bool(self._look.poll(0))

    def look(self, now: float) -> float:
        """How long requests wait now; send the probe if something does and it is not there yet."""
        if self._sent:
            self.looks += 1
        elif self.something_waits():
            self.looks += 1
            self._send(now)
        else:
            self.looks = 0
        return self.delay(now)

    def delay(self, now: float) -> float:
        """What it has waited, the last time or until now; whichever is more."""
        sent = self._sent
        return max(self._waited, now - sent) if sent else self._waited

    def _probed(self) -> bool:
        now = time.monotonic()
        self._waited = waited = now - self._sent
        if waited > AT_ONCE:
            self._send(now)
        else:
            self._sent = 0.0
        return False

    def _send(self, now: float) -> None:
        self._sent = now  # first: a worker may take it at once
        if not self._queue.errands.arm(self._fd):
            self._sent = 0.0  # nobody will: the next look sends it


class LoadKeeper:
    """See the module. ``cpus``: how many threads can run at the same time. Made when the workers have started."""

    def __init__(
        self,
        config: ServerConfig,
        queue: ConnectionQueue,
        workers: Workforce,
        poll: select.poll,
        slot: Slot,
        cpus: int,
    ) -> None:
        self._queue = queue
        self._workers = workers
        self._poll = poll  # what the main thread sleeps in
        self._slot = slot  # the main thread's
        self._cpus = cpus
        self._limit = config.limits.queue_wait
        self._least, self._most = config.workers.thread_bounds()
        if config.workers.mode == "async":
            self._most = self._least  # there are none
        self._probe = Probe(queue)
        self._meter = CpuMeter()
        self._gate = Gate(self._limit, queue.notice, self._probe.delay)
        self._due = 0.0
        self._sleeping = False
        self._quiet = 0
        self._requests = 0
        self._busiest = 0
        self._calm_since = time.monotonic()
        self._resigned = 0.0  # no more threads before then
        self._shed = 0  # requests that were refused, when last counted
        self._refused_at = 0.0  # when that number last grew; 0: not overloaded
        self._overloads = (0, 0.0)  # the number and the time when the present overload began
        workers.guard(self._gate)
        poll.register(queue.fileno(), 0)

    def tend(self, now: float) -> float:
        """Look, if it is time to; when to call again."""
        if self._sleeping:
            if self._gate.asleep and now < self._due and not self._probe.something_waits():
                return self._due
            self._wake_up()
        elif now < self._due:
            return self._due
        self._look(now)
        return self._due

    def _look(self, now: float) -> None:
        gate = self._gate
        seen = gate.collect()
        wait = max(self._probe.look(now), seen.least or 0.0)
        congested = wait > AT_ONCE
        self._queue.congested = congested or self._probe.looks >= _ALWAYS
        measures = 0 < self._limit * _CLOSE < wait
        if measures != gate.measures:
            gate.measures = measures
            self._workers.alert(measures)
            if not measures:
                gate.calm()
        if congested:
            self._calm_since = now
        self._report(seen.refused, seen.longest, now)
        if self._least < self._most:
            self._fit(wait, now)
        requests = self._workers.requests()
        moved, self._requests = requests - self._requests, requests
        if (
            moved > seen.measured
        ):  # these were not asked: a thread was idle, or nobody wants to know so exactly
            self._slot.waited(wait, moved - seen.measured)
        self._quiet = 0 if congested or moved or self._probe.is_sent else self._quiet + 1
        self._due = now + TICK
        if self._quiet >= _QUIET:
            self._fall_asleep()

    def _fit(self, wait: float, now: float) -> None:
        """See that there are as many threads as the load wants."""
        workers = self._workers
        busy, threads = workers.busy()
        self._busiest = max(self._busiest, busy)
        use = None
        if wait and threads < self._most and now >= self._resigned:
            use = self._meter.measure(workers.native_ids(), now)
        sample = Sample(
            threads, self._least, self._most, self._cpus, wait, use, self._busiest, self._calm_since, now
        )  # fmt: skip
        change = decide(sample)
        if change > 0:
            came = workers.grow(change)
            if came < change:
                self._resigned = now + _RESIGNED
                logger.warning("no thread more than %d: trying again in %.0f s", threads + came, _RESIGNED)
            elif came:
                logger.info("%d threads, %d more: requests waited %.0f ms", threads + came, came, wait * 1000)
        elif change < 0:
            workers.shrink(threads + change)
            logger.info(
                "%d threads, %d fewer: no more than %d were busy", threads + change, -change, self._busiest
            )
        if change or now - self._calm_since >= CALM:
            self._calm_since = now
            self._busiest = 0

    def _report(self, refused: int, longest: float, now: float) -> None:
        """Say when requests begin to be refused, and how many it were when that is over."""
        more, self._shed = refused - self._shed, refused
        if more:
            if not self._refused_at:
                self._overloads = (refused - more, now)
                logger.warning(
                    "overload: requests wait %.2f s, longer than limits.queue_wait (%g s): those are answered 503",
                    longest,
                    self._limit,
                )
            self._refused_at = now
        elif self._refused_at and now - self._refused_at >= _OVER:
            self._overload_is_over()

    def _overload_is_over(self) -> None:
        before, since = self._overloads
        logger.warning(
            "the overload is over: %d requests were answered 503 in %.0f s",
            self._shed - before,
            max(1.0, self._refused_at - since),
        )
        self._refused_at = 0.0

    # -- sleep -------------------------------------------------------------------------------------------------------

    def _fall_asleep(self) -> None:
        """Have the next request wake the main thread."""
        workers = self._workers
        self._gate.asleep = True
        workers.alert(True)
        if workers.requests() != self._requests:
            # Its thread may have looked for the alert before it was there.
            self._wake_up()
            return
        self._sleeping = True
        above = self._least < self._most and workers.busy()[1] > self._least
        self._due = self._calm_since + CALM if above else _NEVER
        if self._refused_at:
            self._due = min(self._due, self._refused_at + _OVER)
        if not workers.any_idle():
            # Nobody would see the next request; but then nobody else takes its event either.
            self._poll.modify(self._queue.fileno(), select.POLLIN)

    def _wake_up(self) -> None:
        self._sleeping = False
        self._quiet = 0
        self._gate.asleep = False
        self._workers.alert(self._gate.measures)
        self._poll.modify(self._queue.fileno(), 0)
