"""A child's own body: load the application, start its lifespan and its workers, listen to the master, drain, exit.

Promises: ``Ready`` is sent only when every worker waits for requests; what fails before is one ``BootFailed`` with the
application's traceback; a child that loses its master drains and exits; after ``Drain`` everything received is
answered, and at the deadline what is left is named, never silently cut. Refuses: decisions about other children
(the master's).

Threads: ``main`` runs in the process's main thread, which then listens to the channel, and counts deadlines; the
workers and the home loop have threads of their own. Of a worker it uses only what the worker's module names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Final

from ..config import ServerConfig
from ..config.certificates import BadCertificate
from .access_log import WorkerLog
from .app_loader import AppLoadError, LoadedApp
from .app_runner import describe, gil_enabled
from .arena import NO_PAPERS, Papers
from .asgi.lifespan import Lifespan, LifespanFailed
from .async_pool import AsyncPool
from .channel import (
    MOST_HEIRS,
    BootFailed,
    Channel,
    ChannelError,
    Drain,
    Drained,
    Inherit,
    LameDuck,
    Ready,
    StacksAre,
    Stop,
    Worn,
)
from .channel import Stacks as ShowStacks
from .drain import Draining
from .farewell import Refuser
from .handover import Arrivals, names
from .hang_watch import HangWatch
from .listening import patient_poll, rest_after
from .load_keeper import LoadKeeper
from .outfit import access_log_of, queue_of, scores_of
from .process import introduce, load, set_garbage_aside
from .slots import MAIN, PHASE_COUNT, Scores
from .stacks import LONGEST_REPORT, Held, Stacks
from .warmup import WarmupFailed, warm_up
from .wear import Wear, resident
from .workforce import Workforce

logger = logging.getLogger("serverd.worker")

BOOT_FAILED: Final = 3
NOT_LOADABLE: Final = 4
# How long a lifespan shutdown may take when the graceful time is used up already, in seconds.
_LAST_WORDS: Final = 5.0
# How long the access log's reader may take for the last lines.
_LAST_LINES: Final = 1.0
_NEVER: Final = float("inf")
# The connections are counted for the scoreboard so often at most, in seconds: it takes 1 ms for 10,000.
_COUNT_EVERY: Final = 0.5
# A wait that no system call refuses, in seconds.
_LONGEST: Final = 86400.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """All that a child is told. The sockets listen already; they and the channel belong to the child from now on."""

    index: int
    generation: int
    config: ServerConfig
    sockets: tuple[socket.socket, ...]
    channel: Channel
    papers: Papers = NO_PAPERS


def main(spec: ChildSpec) -> int:
    """The child's whole life; returns its exit status: 0, or 3 and 4 when it could not boot."""
    began = time.monotonic()
    introduce(spec.config.process.title, spec.index, spec.generation, spec.papers)
    # Before the application is there, which would else have the descriptor, and with it what all children write.
    scores = scores_of(spec.papers)
    try:
        app = load(spec.config)
    except AppLoadError as exc:
        spec.channel.send(BootFailed("import", NOT_LOADABLE, str(exc), exc.traceback))
        return NOT_LOADABLE
    return _live(spec, app, scores, began)


def resume(spec: ChildSpec, app: LoadedApp) -> int:
    """The life of a child that was forked from a template, in which ``load`` has been called; its exit status."""
    began = time.monotonic()
    introduce(spec.config.process.title, spec.index, spec.generation, spec.papers)
    return _live(spec, app, scores_of(spec.papers), began)


def _live(spec: ChildSpec, app: LoadedApp, scores: Scores, began: float) -> int:
    """From the loaded application to the exit status."""
    try:
        child = _Child(spec, app, scores)
        if not child.start_lifespan():
            return 0
        child.start_workers()
    except LifespanFailed as exc:
        failed = BootFailed(
            "lifespan", BOOT_FAILED, f"lifespan: the application did not start: {exc}", exc.text
        )
    except WarmupFailed as exc:
        failed = BootFailed("warmup", BOOT_FAILED, str(exc), "")
    except BadCertificate as exc:
        failed = BootFailed("config", BOOT_FAILED, f"tls.{exc.role}: {exc}", "")
    except Exception as exc:  # noqa: BLE001 - whatever it is, the master has to hear why there is no child
        reason = f"the worker did not start: {type(exc).__name__}: {exc}"
        failed = BootFailed("workers", BOOT_FAILED, reason, traceback.format_exc())
    else:
        spec.channel.send(child.readiness(time.monotonic() - began))
        return child.serve()
    spec.channel.send(failed)
    return BOOT_FAILED


class _Child:
    """The parts of one running child. Belongs to the main thread."""

    def __init__(self, spec: ChildSpec, app: LoadedApp, scores: Scores) -> None:
        config = spec.config
        self._spec = spec
        self._config = config
        self._app = app
        self._pool = AsyncPool(config.workers.loop)
        self._lifespan = Lifespan(app.app)
        self._scores = scores
        self._queue = queue_of(config, scores)
        self._log = access_log_of(config, spec.index, spec.generation)
        self._slot = self._scores.take()
        self._slot.enter(MAIN)
        self._counted = 0.0  # when the connections were
        self._refuser = Refuser(self._queue, self._new_log(), self._slot)
        self._workers: Workforce
        self._threads = 0
        self._load: LoadKeeper
        self._tend_at = 0.0  # when a deadline of a connection may have passed
        self._terminated = False
        self._stacks = Stacks(spec.papers.stacks, describe)
        self._held: Callable[[], Mapping[int, Held]] = dict[int, Held]  # what the threads serve
        self._poll = select.poll()
        self._poll.register(spec.channel.fileno(), select.POLLIN)
        self._poll.register(self._queue.attention, select.POLLIN)
        # What another child gives to this one, which cannot go on without TLS where it speaks TLS.
        self._arrivals = Arrivals(self._queue, names(spec.sockets) if config.tls is None else (), self._poll)
        self._heirs: list[socket.socket] = []  # the ways to those who get the connections of this one

    def _new_log(self) -> WorkerLog | None:
        return None if self._log is None else self._log.for_worker()

    # -- boot --------------------------------------------------------------------------------------------------------

    def start_lifespan(self) -> bool:
        """Run the application's startup. False if the master wants no more of this child. Raises LifespanFailed."""
        self._pool.start()
        started = self._pool.call(self._lifespan.startup())
        started.add_done_callback(lambda _: self._queue.notice())
        while not started.done():
            patient_poll(self._poll)
            self._noticed()
            if not started.done() and self._order() is not None:
                return False
        try:
            started.result()
        except CancelledError as exc:
            raise LifespanFailed("the home loop ended: did the application call sys.exit()?", "") from exc
        return True

    def start_workers(self) -> None:
        """Start every thread, and what is served on the home loop; listen when the last one runs."""
        state = self._lifespan.state if self._lifespan.supported else None
        self._workers = Workforce(
            self._config, self._app, self._queue, self._pool, state, self._new_log, self._scores
        )
        self._threads = self._workers.start()
        self._held = self._workers.held
        self._hangs = HangWatch(self._config.timeouts, self._held, self._stacks)
        cpus = 1 if gil_enabled() else os.process_cpu_count() or 1
        self._load = LoadKeeper(self._config, self._queue, self._workers, self._poll, self._slot, cpus)
        warm_up(self._queue, self._config.reload.warmup, self._config.timeouts.boot or _NEVER)
        set_garbage_aside()
        for sock in self._spec.sockets:
            self._queue.add_listener(sock)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        now = time.monotonic()
        self._tell(now, now + _COUNT_EVERY)  # before the master hears that it is ready, and holds it to that

    def readiness(self, seconds: float) -> Ready:
        return Ready(
            pid=os.getpid(),
            threads=self._threads,  # none in `mode: async`
            gil=gil_enabled(),
            gil_culprit=self._app.gil_culprit,
            seconds=seconds,
            app=self._app.name,
        )

    # -- serving -----------------------------------------------------------------------------------------------------

    def serve(self) -> int:
        """Until the master says otherwise, or is gone; then drain."""
        wear = Wear(self._config.workers, time.monotonic())
        while True:
            order = self._wait(wear.due)
            if order is not None:
                return self._drain(order)
            worn = wear.look(self._workers.requests(), time.monotonic())
            if worn is not None:
                self._spec.channel.send(Worn(*worn))

    def _wait(self, deadline: float | None) -> Drain | Stop | None:
        """One turn: sleep until something happens or is due, do what is due, and return what the master ordered. One
        system call that fails (poll without memory) does not end the child."""
        try:
            return self._turn(deadline)
        except OSError as exc:
            rest_after(exc, "a system call of the main thread")
            return None

    def _turn(self, deadline: float | None) -> Drain | Stop | None:
        now = time.monotonic()
        if now >= self._tend_at:
            self._tend_at = self._queue.tend(now, self._refuser.expired)
        due = min(self._tend_at, self._load.tend(now), self._hangs.tend(now))
        if deadline is not None:
            due = min(due, deadline)
        self._tell(now, due)
        events = self._poll.poll(min(max(0.0, due - now), _LONGEST) * 1000 + 1)
        if events:
            self._tend_at = 0.0  # a listener was paused, a connection has come from elsewhere
        if any(fd == self._queue.attention for fd, _ in events):
            self._noticed()
        if self._terminated:
            self._terminated = False
            return Drain(self._config.timeouts.graceful or _NEVER, final=True)
        ready = {fd for fd, _ in events}
        for fd in ready:
            if fd in self._arrivals:
                self._arrivals.hear(fd)
        return self._order() if self._spec.channel.fileno() in ready else None

    def _tell(self, now: float, due: float) -> None:
        """Write into the scoreboard when this thread looks again, and how many connections there are."""
        if now - self._counted >= _COUNT_EVERY:
            self._counted = now
            phases = [0] * PHASE_COUNT
            for conn in self._queue.connections():
                phases[conn.phase] += 1
            memory, queue = resident(os.getpid()), self._queue
            self._scores.count(self._workers.threads(), queue.pauses, memory, phases, queue.seen_off)
        self._scores.tell(due)

    def _order(self) -> Drain | Stop | None:
        """What the master wants. Its end is an order too: nobody would ever send another."""
        channel = self._spec.channel
        if not select.select([channel], [], [], 0)[0]:
            return None
        try:
            message, given = channel.recv_with(MOST_HEIRS)
        except ChannelError as exc:
            logger.error("%s; ignored", exc)
            return None
        except OSError as exc:  # it is still there
            rest_after(exc, "recvmsg")
            return None
        if message is None:
            logger.warning("the master is gone: draining and leaving")
            self._poll.unregister(channel.fileno())
            return Drain(self._config.timeouts.graceful or _NEVER, final=True)
        if isinstance(message, Inherit) and given:
            self._arrivals.expect(given.pop())
            return None
        self._heirs.extend(socket.socket(fileno=fd) for fd in given)
        if isinstance(message, Drain | Stop):
            return message
        if isinstance(message, ShowStacks):
            self._show_stacks(message.request)
            return None
        if isinstance(message, LameDuck):
            self._workers.say_close()
            return None
        logger.error("channel: %s is not for a child; ignored", type(message).__name__)
        return None

    def _show_stacks(self, request: int) -> None:
        """Tell the master where every thread is, one message for each. It takes a while, which is no hang."""
        self._scores.tell(time.monotonic() + LONGEST_REPORT)
        try:
            for text in self._stacks.report(self._held()):
                self._spec.channel.send(StacksAre(request, text, last=False))
        except Exception:
            logger.exception("the stacks cannot be shown")  # which is no reason to stop serving
        self._spec.channel.send(StacksAre(request, "", last=True))

    def _noticed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._queue.attention)

    def _on_term(self, number: int, frame: object) -> None:
        # Runs in the main thread between two bytecodes; the eventfd ends the poll that Python would resume.
        self._terminated = True
        self._queue.notice()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _drain(self, order: Drain | Stop) -> int:
        """Finish what was received, as long as the order allows; then the application ends, and the process."""
        self._arrivals.close()
        draining = Draining(self._queue, self._workers, self._heirs, self._wait)
        draining.run(order)
        self._shut_down(min(max(draining.deadline - time.monotonic(), _LAST_WORDS), _LONGEST))
        self._spec.channel.send(Drained(self._workers.requests(), draining.cut))
        return 0

    def _shut_down(self, seconds: float) -> None:
        """The lifespan's shutdown, then the log's last lines."""
        self._scores.tell(0.0)  # this thread waits for the application now
        try:
            self._pool.call(self._lifespan.shutdown()).result(seconds)
        except TimeoutError:
            logger.warning("the application's lifespan shutdown did not end within %.1f s", seconds)
        except Exception:
            logger.exception("the application's lifespan shutdown failed")
        if not self._pool.stop():
            logger.warning("tasks of the home loop did not end when they were cancelled")
        if self._log is not None and not self._log.stop(_LAST_LINES):
            logger.warning("the last lines of the access log are lost: nobody reads standard output")
