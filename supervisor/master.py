"""The master: one thread, one selector, and the hands of policy.py.

Promises: the application is never imported here and no HTTP is spoken; the loop sleeps until a signal, a child,
the watcher or a deadline wakes it, and never looks without a reason; whatever goes wrong in a reload leaves
what serves as it was; a listening socket whose address stays in the configuration is open until the end, so
that no connection is refused on the way. What is to be done is decided by policy.py from the roster; this
module does it and says so in the log.

`run` returns the exit status: 0 after an orderly stop, 2 when an address, user or pidfile cannot be had, 1 when an
address is only in use now or not there yet, 3 or 4 when the first generation cannot boot (the child's own status), 1
after a mistake of ours.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import setproctitle

from ..config import ServerConfig
from ..config.logs import setup_logging
from ..server.scoreboard import ChildView
from ..server.seldom import SeldomLog
from . import facts, policy, reports, signals
from .admin import Admin
from .board import Board
from .control import Control
from .control_commands import Commands
from .crew import Crew
from .hands import Hands
from .listeners import ListenError
from .nursery import Nursery
from .orders import Orders
from .origin import Origin
from .outside import Outside
from .pidfile import PidfileError
from .privileges import PrivilegeError, resolve
from .rollout import Rollout
from .roster import Child, Generation, Roster, Shutdown, Urgency
from .spawn import Closable, Main, reap
from .succession import Estate, Predecessor
from .sure_selector import SureSelector
from .trial import Trial
from .upgrade import Upgrade
from .vigil import Vigil
from .watching import Watching

logger = logging.getLogger("serverd.master")

_INIT: Final = 1
# Exit statuses; a service manager tries again after the first, and not after the second.
_BROKEN: Final = 1
_MISCONFIGURED: Final = 2
# More actions than any roster can ask for at one moment: reached only if acting does not change what is decided.
_MOST_ACTIONS: Final = 100_000
# After a system call that failed, such as poll(2) without memory.
_REST: Final = 0.1


def run(
    config: ServerConfig,
    *,
    reload_config: Callable[[], ServerConfig],
    main: Main | None = None,
    predecessor: Predecessor | None = None,
) -> int:
    """Serve `config` until a signal ends it; the exit status.

    `reload_config` reads the configuration again and raises ConfigError. `main` replaces the body of the
    children in tests. `predecessor` is the master whose place this one takes. Must be called in the main thread of
    a process that has no other thread. Raises nothing for what a user can get wrong.
    """
    setup_logging(config.logging, process="master", stream=sys.stderr)
    # First of all: the title finds its room by the environment as it was, and variables are taken out below.
    setproctitle.setproctitle(reports.master_title(config))
    try:
        master = Master(config, reload_config, main, predecessor)
    except (ListenError, PidfileError, PrivilegeError) as error:
        for line in str(error).splitlines():
            logger.error("%s", line)
        if predecessor is not None:
            predecessor.failed("; ".join(str(error).splitlines()))
        return _BROKEN if isinstance(error, ListenError) and error.passing else _MISCONFIGURED
    return master.serve()


class Master:
    """Everything that the master holds. Lives in one thread; only `run` makes one, and only `serve` uses it."""

    def __init__(
        self,
        config: ServerConfig,
        reload_config: Callable[[], ServerConfig],
        main: Main | None,
        predecessor: Predecessor | None,
    ) -> None:
        """Take what the outside world has to give: sockets, the pidfile, signals. Raises ListenError,
        PidfileError or PrivilegeError, with everything given back."""
        self._status: int | None = None
        self._say = SeldomLog(logger)
        self._identity = resolve(config.process)
        self._outside = Outside.take(config, self._identity, predecessor)
        self._listeners, self._notifier = self._outside.listeners, self._outside.notifier
        self._selector = SureSelector()
        origin = Origin.remember()
        self._signals = signals.Signals()
        self._signals.install()
        self._selector.register(self._signals.reader, selectors.EVENT_READ, self._on_signals)
        self._roster = Roster()
        self._board = Board()
        self._history = facts.History(os.getpid(), time.time())
        self._nursery = Nursery(self._roster, self._selector, self._is_a_helper)
        self._crew = Crew(self._roster, self._selector, self._nursery, self._board, main)
        self._vigil = Vigil(self._roster, self._board, self._history, self._notifier.interval)
        self._watching = Watching(self._selector, self._on_change)
        self._control = Control(self._selector, os.environ, self._outside.listeners.beside())
        waits = predecessor is not None
        self._admin = Admin(self._selector, self._outside.admin, self._board.arena, waits=waits)
        self._rollout = Rollout(
            config,
            reload_config,
            self._roster,
            self._listeners,
            self._crew,
            self._watching,
            self._notifier,
            self._control,
            self._outside,
            self._admin,
        )
        self._upgrade = Upgrade(self._roster, self._selector, origin, self._estate, self._let_go)
        self._orders = Orders(
            self._roster,
            self._rollout,
            self._listeners,
            self._watching,
            self._notifier,
            self._upgrade,
            self._bury,
        )
        self._commands = Commands(self._roster, self._orders, self._crew.rounds, self._board, self._facts)
        self._control.answer = self._commands.answer
        self._hands = Hands(
            self._listeners,
            self._crew,
            self._nursery,
            self._rollout,
            self._orders,
            Trial(self._roster, self._view),
            self._belongings,
            self._quit,
        )
        self._predecessor = predecessor
        if predecessor is None:
            self._open_control(config)
        else:
            self._roster.last_number = predecessor.estate.generation
            self._roster.taking_over = True
            predecessor.attach(self._selector, self._take_over, self._is_alone)

    def _open_control(self, config: ServerConfig) -> None:
        try:
            self._control.open(config)
        except ListenError:
            self._outside.close()
            self._selector.close()
            self._signals.close()
            raise

    def serve(self) -> int:
        """Run until it is over; the exit status."""
        try:
            for listener in self._listeners.all():
                logger.info("%s", reports.is_listening(listener, self._rollout.config))
            for listener in self._outside.admin.all():
                logger.info("the admin plane is at %s", listener)
            self._rollout.warn(self._rollout.config)
            asked = () if self._predecessor is None else (self._predecessor.decided,)
            self._rollout.start(self._identity, asked)
            while self._status is None:
                try:
                    self._turn()
                except OSError as error:
                    self._stumble(error)
            return self._status
        except Exception:
            logger.exception("the master has failed; its children drain and exit")
            return _BROKEN
        finally:
            self._put_away()

    # The loop

    def _turn(self) -> None:
        """Do what is due, then sleep until something happens or something else is due."""
        look_at = self._vigil.tend(time.monotonic())
        wake_at = min(self._settle(), look_at)
        self._publish()
        if self._status is not None:
            return
        wake_at = min(wake_at, self._helpers_due())
        timeout = None if wake_at == math.inf else max(0.0, wake_at - time.monotonic())
        events = self._selector.select(timeout)
        self._on_signals()  # first: an exit that a signal to the whole group explains is no crash
        for key, _ in events:
            if self._selector.get_map().get(key.fd) is key:  # else an event before this one has closed it
                key.data()

    def _stumble(self, error: OSError) -> None:
        """A system call failed that nobody else has answered for: what was due is still due, a moment later."""
        self._say("a system call failed: %s; trying again every %.1f s", error, _REST)
        logger.debug("it was this one", exc_info=error)
        time.sleep(_REST)

    def _settle(self) -> float:
        """Act until nothing is due; when to look again. One action at a time, as each changes what is due."""
        for _ in range(_MOST_ACTIONS):
            decision = policy.decide(self._roster, time.monotonic())
            if not decision.actions or self._status is not None:
                return decision.wake_at
            self._hands.act(decision.actions[0])
        raise RuntimeError(f"the policy does not settle: {decision.actions[0]}")

    def _helpers_due(self) -> float:
        """Give the watchdog its sign of life and start the watcher, if it is time; when it will be time."""
        now = time.monotonic()
        healthy = policy.healthy(self._roster)
        if healthy and self._notifier.ping_at() <= now:
            self._notifier.ping(now)
        if self._watching.due() <= now and not self._roster.stopping:
            self._watching.start(self._belongings(None), now)
        if self._admin.due() <= now:  # also while the server stops, as that is what probes have to hear
            self._admin.start(self._belongings(None), now)
        self._upgrade.expire(now)
        asked = min(self._control.tend(now), self._crew.rounds.tend(now), self._crew.tend(now))
        watching = math.inf if self._roster.stopping else self._watching.due()
        helpers = min(watching, self._admin.due(), self._upgrade.due())
        return min(asked, helpers, self._notifier.ping_at() if healthy else math.inf)

    def _is_a_helper(self, pid: int) -> bool:
        """Whether `pid` is a process of ours that is no child and no template."""
        return pid in {self._watching.pid, self._upgrade.pid, *self._admin.pids()}

    def _view(self, child: Child) -> ChildView | None:
        return self._board.look(child.papers.region)

    def _quit(self, status: int) -> None:
        self._status = status

    def _belongings(self, generation: Generation | None) -> Iterator[Closable]:
        """Everything here that holds a descriptor and is none of the business of a child of `generation`."""
        yield self._selector
        yield self._signals.reader
        yield self._signals.writer
        needed = self._listeners.sockets(generation.config.listen) if generation is not None else ()
        yield from (listener.sock for listener in self._listeners.all() if listener.sock not in needed)
        yield from self._outside.belongings()
        yield from self._crew.belongings()
        yield from self._nursery.belongings()
        yield from self._watching.belongings()
        yield from self._admin.belongings()
        yield from self._upgrade.belongings()
        yield from self._control.belongings()
        if self._predecessor is not None:
            yield from self._predecessor.belongings()
        if self._board.arena is not None and generation is not None:  # helpers are given what they need of it
            yield self._board.arena

    # From one master to the next

    def _estate(self) -> Estate:
        return self._outside.estate(self._roster.last_number, self._control.heirlooms())

    def _let_go(self, pid: int) -> None:
        """The new master `pid` serves: it has everything, and this one has its children to see off."""
        logger.info("upgrade: the master is process %d now; this one drains and leaves", pid)
        self._watching.stop()
        self._admin.end()
        self._control.hand_over()
        self._outside.hand_over(pid)
        self._roster.shutdown = Shutdown(Urgency.GRACEFUL, 0, handed_over=True)
        self._settle()  # our children hear of it before anybody else does

    def _is_alone(self) -> None:
        self._roster.follows = False

    def _take_over(self, line: str) -> None:
        """We serve, and the old master has let go, or is gone. If we stop already, its files still go with us."""
        assert self._predecessor is not None
        shutdown = self._roster.shutdown
        self._roster.taking_over, self._roster.follows = False, self._predecessor.lives
        self._control.follow(self._rollout.config)
        self._outside.take_over(line if shutdown is None else None)
        self._admin.begin()
        logger.info("upgrade: this is the master now, in place of process %d", self._predecessor.estate.pid)
        if shutdown is not None:
            graceful = self._rollout.config.timeouts.graceful
            self._notifier.stopping("stopping", policy.longest_stop(graceful, shutdown.urgency))

    def _publish(self) -> None:
        """Write onto the board what is true now, if it is new."""
        self._board.publish(self._facts())

    def _facts(self) -> dict[str, Any]:
        rollout = self._rollout
        scheme = "http" if rollout.config.tls is None else "https"
        return facts.gather(
            self._roster,
            rollout.config,
            self._history,
            [listener.url(scheme) for listener in self._listeners.all()],
            (rollout.succeeded, rollout.failed, rollout.last),
        )

    def _on_change(self, cause: str) -> None:
        self._roster.ask_reload(cause, newer_code=True)

    def _put_away(self) -> None:
        """Give back what was taken. Children that are left see the end of their channel, drain and exit."""
        self._watching.stop()
        self._admin.close()
        self._commands.close()
        self._control.close()
        self._outside.close()
        if self._predecessor is not None:
            self._predecessor.close()
        for thing in (*self._crew.belongings(), *self._nursery.belongings(), *self._upgrade.belongings()):
            thing.close()
        self._selector.close()
        self._signals.close()
        handed_over = self._roster.shutdown is not None and self._roster.shutdown.handed_over
        logger.info("the old master leaves" if handed_over else "stopped")

    def _on_signals(self) -> None:
        for number in self._signals.read():
            self._orders.on_signal(number)

    def _bury(self) -> None:
        """As PID 1, and with templates, take note of our own dead, and of those whom nobody else would bury."""
        if os.getpid() != _INIT and not self._nursery.adopts:
            return  # each of ours has a pidfd
        for pid, status in reap():
            helpers = (self._crew, self._nursery, self._watching, self._admin, self._upgrade)
            if not any(ours.bury(pid, status) for ours in helpers):
                logger.debug("buried process %d, which %s", pid, reports.how_it_ended(status))
