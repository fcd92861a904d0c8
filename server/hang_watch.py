"""Requests that take too long, found by the child itself: which, since when, and where they are.

Promises: a request older than ``timeouts.request`` (or ``timeouts.stuck``, if that is shorter) is named once in the
log, with the stack of the thread that it holds, or of its coroutine when it waits in an event loop; nothing is done
to it. An event loop in which requests wait and that does not turn is marked in the scoreboard, where the master finds
it (supervisor/watchdog.py). Refuses: WebSockets and event streams, which are meant to last, and requests whose client
is waited for.

Costs nothing for a request, and no timer: the oldest request tells when to look again, and one that begins after a
look cannot be too old before the limit has passed again (as ``ConnectionQueue.tend``). The home loop, and the loops
of workers in which something waits, are asked once a second whether they turn; nobody is asked without a limit.

Threads: everything belongs to the child's main thread, but ``_Pulse.come``, which runs in the loop that is asked, and
the lines about coroutines, which their loop writes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from ..config import TimeoutsConfig
from .app_runner import describe
from .exchange import Exchange
from .routes import EVENTS
from .slots import REQUEST
from .stacks import PATIENCE, Held, Stacks
from .worker_loop import WorkerLoop

logger = logging.getLogger("serverd.worker")

# How often a loop is asked whether it turns, and how long it may take to answer, in seconds.
PULSE: Final = 1.0
# So many stacks are logged in one look; the others are named. Each takes a signal to a thread, and some milliseconds.
MOST_STACKS: Final = 16
# All stacks of one look together, in seconds: this thread accepts nothing meanwhile, and the master holds it to what it
# has promised (supervisor/vigil.py has patience for twice as long at least).
BUDGET: Final = 1.0


class _Pulse:
    """A question to an event loop: does it turn?"""

    __slots__ = ("answered", "sent")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self.sent = now
        self.answered = False
        try:
            loop.call_soon_threadsafe(self.come)
        except RuntimeError:  # it is closed
            self.answered = True

    def come(self) -> None:
        """In the loop: one attribute, written once."""
        self.answered = True


class HangWatch:
    """See the module. ``held`` says what each thread serves, by Python's number of the thread."""

    def __init__(
        self, timeouts: TimeoutsConfig, held: Callable[[], Mapping[int, Held]], stacks: Stacks | None
    ) -> None:
        limits = [(timeouts.request, "timeouts.request"), (timeouts.stuck, "timeouts.stuck")]
        self._limit, self._key = min(
            ((limit, key) for limit, key in limits if limit), default=(0.0, "timeouts.request")
        )
        self._held = held
        self._stacks = stacks
        self._told: dict[int, Exchange] = {}  # those that were named, by id, as long as they last
        self._pulses: dict[int, _Pulse] = {}
        self._still: set[int] = set()  # threads whose loop was said to stand still
        self._left = 0  # stacks that may still be asked for in this look
        self._until = 0.0  # and until when
        self._again = 0.0

    def tend(self, now: float) -> float:
        """Look if it is time; when to call again (infinite without limits)."""
        if not self._limit:
            return float("inf")
        if now >= self._again:
            held = self._held()
            self._left = MOST_STACKS
            self._until = time.monotonic() + BUDGET
            self._again = min(self._requests(held, now), self._loops(held, now))
        return self._again

    # -- requests ----------------------------------------------------------------------------------------------------

    def _requests(self, held: Mapping[int, Held], now: float) -> float:
        again = now + self._limit
        told: dict[int, Exchange] = {}
        for ident, thread in held.items():
            current = thread.current
            waiting = dict(thread.waiting)  # one operation, while the thread goes on
            for task, exchange in ((None, current), *waiting.items()):
                # An exchange that is done and waits is a background task: nobody waits for it.
                if exchange is None or _may_last(exchange) or (exchange.done and task is not None):
                    continue
                if id(exchange) in self._told:
                    told[id(exchange)] = exchange
                elif _waits_for_client(exchange):
                    continue
                elif exchange.since + self._limit > now:
                    again = min(again, exchange.since + self._limit)
                elif (
                    exchange is not current or task is None
                ):  # else it is there twice, and named as the current one
                    told[id(exchange)] = exchange
                    self._name(ident, thread, task, exchange, now)
        self._told = told
        return again

    def _name(
        self,
        ident: int,
        held: Held,
        task: asyncio.Task[object] | None,
        exchange: Exchange,
        now: float,
    ) -> None:
        what = f"{describe(exchange, now)} takes longer than {self._key} ({self._limit:g} s)"
        if task is None:
            name, native = _thread(ident)
            lines = self._stack(native)
            logger.warning("%s; it holds the thread %s (%d)%s", what, name, native, lines and f" at\n{lines}")
        elif self._stacks is None or self._left <= 0:
            logger.warning("%s", what)
        else:
            self._left -= 1

            def say(answer: concurrent.futures.Future[list[str]]) -> None:
                logger.warning("%s; it waits in its event loop at\n%s", what, "\n".join(answer.result()))

            self._stacks.ask(held._replace(waiting={task: exchange})).add_done_callback(say)

    def _stack(self, native: int) -> str:
        """Where a thread is. Empty when too many were asked in this look, or one that does not answer: the next one
        is likely to be no better, and each costs this thread its time."""
        rest = self._until - time.monotonic()
        if self._stacks is None or self._left <= 0 or rest <= 0:
            return ""
        self._left -= 1
        answered, lines = self._stacks.ask_thread(native, min(rest, PATIENCE))
        if not answered:
            self._left = 0
        return "\n".join(f"  {line}" for line in lines)

    # -- loops -------------------------------------------------------------------------------------------------------

    def _loops(self, held: Mapping[int, Held], now: float) -> float:
        """Ask those that should turn, and look who has not answered."""
        pulses: dict[int, _Pulse] = {}
        for ident, thread in held.items():
            pulse = self._pulses.get(ident)
            if not _should_turn(thread) or pulse is None or pulse.answered:
                if thread.slot.is_blocked:
                    thread.slot.blocked(0.0)
                    self._still.discard(ident)
                if thread.loop is not None and _should_turn(thread):
                    pulses[ident] = _Pulse(thread.loop, now)
                continue
            pulses[ident] = pulse
            if now - pulse.sent >= PULSE:
                thread.slot.blocked(pulse.sent)
                self._tell_of_loop(ident, thread, now - pulse.sent)
        self._pulses = pulses
        self._still &= held.keys()
        return now + PULSE if pulses else float("inf")

    def _tell_of_loop(self, ident: int, held: Held, seconds: float) -> None:
        if seconds < self._limit or ident in self._still:
            return
        self._still.add(ident)
        if held.current is not None:
            return  # the request that holds it is named
        name, native = _thread(ident)
        lines = self._stack(native)
        logger.warning(
            "the event loop of the thread %s (%d) stands still for %.1f s, and %d requests wait in it%s",
            name,
            native,
            seconds,
            len(held.waiting),
            lines and f"; it is at\n{lines}",
        )


def _should_turn(held: Held) -> bool:
    """Whether the loop has to answer.

    A worker's does not turn while it blocks in the queue, as it may with nothing left to wait for: then it does not
    answer until the next connection wakes it, and an old question counts for nothing.
    """
    loop = held.loop
    return bool(held.waiting) or (loop.left_behind > 0 if isinstance(loop, WorkerLoop) else loop is not None)


def _may_last(exchange: Exchange) -> bool:
    """Whether it is a WebSocket or an event stream, also one that answers a POST."""
    return exchange.kind != REQUEST or exchange.request.route == EVENTS


def _waits_for_client(exchange: Exchange) -> bool:
    """Whether it is the client that takes its time, with the body or with the response. A hint: another thread's."""
    conn = exchange.conn
    return not exchange.done and (conn.request is not None or conn.out is not None)


def _thread(ident: int) -> tuple[str, int]:
    """Its name, and the kernel's number."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name, thread.native_id or 0
    return "?", 0
