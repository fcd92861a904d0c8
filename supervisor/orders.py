"""What people want of the master: the meaning of signals, and how a stop begins.

Promises: the meanings are gunicorn's (docs/operations.md has the table); a wish that comes while the
server stops can only make the stop faster. Refuses to act on children (policy.py decides, crew.py acts).

Owned by the master's only thread; signals are read there, never handled in a handler.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from . import policy, reports, signals
from .control_lines import MOST_CHILDREN
from .listeners import Listeners
from .notify import Notifier
from .rollout import Rollout
from .roster import BootFailure, Outcome, Roster, Shutdown, Urgency
from .upgrade import Upgrade
from .watching import Watching

logger = logging.getLogger("serverd.master")


class Orders:
    """See the module. `bury` is called on SIGCHLD (as PID 1, which has to wait for everybody's children)."""

    def __init__(
        self,
        roster: Roster,
        rollout: Rollout,
        listeners: Listeners,
        watching: Watching,
        notifier: Notifier,
        upgrade: Upgrade,
        bury: Callable[[], None],
    ) -> None:
        self._roster = roster
        self._rollout = rollout
        self._listeners = listeners
        self._watching = watching
        self._notifier = notifier
        self._upgrade = upgrade
        self._bury = bury
        self._terminal = signals.on_a_terminal()
        self._nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def on_signal(self, number: signal.Signals) -> None:
        """Do what `number` stands for."""
        match number:
            case signal.SIGTERM:
                self.stop(Urgency.GRACEFUL)
            case signal.SIGINT:
                self._interrupt()
            case signal.SIGQUIT:
                self._hurry(Urgency.FAST)
            case signal.SIGHUP:
                self._hang_up()
            case signal.SIGUSR1:
                logger.info("SIGUSR1: the log goes to standard error, there is nothing to reopen")
            case signal.SIGUSR2:
                self.upgrade("SIGUSR2")
            case signal.SIGTTIN | signal.SIGTTOU:
                self._scale_by_one(number)
            case signal.SIGWINCH:
                self._rest()
            case signal.SIGCHLD:
                self._bury()

    def stop(self, urgency: Urgency, status: int = 0) -> None:
        """Begin to stop, or stop faster than was begun."""
        begun = self._roster.shutdown
        if begun is not None and begun.urgency >= urgency:
            return
        self._upgrade.stop(urgency)
        if urgency is Urgency.GRACEFUL and self._becomes_lame_duck():
            return
        self._roster.lame_until = None
        graceful = self._rollout.config.timeouts.graceful
        logger.info("%s", reports.stopping(urgency, graceful, serving=self._roster.current is not None))
        if begun is not None:
            self._roster.shutdown = replace(begun, urgency=urgency)
            return
        self._roster.shutdown = Shutdown(urgency, status)
        self._rollout.abandon("serverd stops")
        self._notifier.stopping("stopping", policy.longest_stop(graceful, urgency))
        self._watching.stop()
        self._listeners.close()  # the children hold their own copies, and accept what waits in the backlogs

    def _becomes_lame_duck(self) -> bool:
        """Serve on for `timeouts.lame_duck`, so that load balancers see that readiness says no. Once, and not for a
        person at a terminal, nor while nothing serves."""
        timeouts, roster = self._rollout.config.timeouts, self._roster
        if not timeouts.lame_duck or roster.stopping or self._terminal or roster.current is None:
            return False
        roster.lame_until = time.monotonic() + timeouts.lame_duck
        logger.info("lame duck: stopping in %g s, responses say Connection: close", timeouts.lame_duck)
        longest = policy.longest_stop(timeouts.graceful, Urgency.GRACEFUL)
        self._notifier.stopping("lame duck", timeouts.lame_duck + longest)
        self._watching.stop()
        return True

    def upgrade(self, cause: str, asked: Outcome | None = None) -> str | None:
        """Start a new master that takes the place of this one; `asked` hears how that ended. Why not, or None."""
        problem = self._upgrade.begin(cause)
        if problem is None:
            self._upgrade.asked.append(self._rollout.upgraded)
            if asked is not None:
                self._upgrade.asked.append(asked)
        return problem

    def busy(self) -> str | None:
        """Why neither a reload nor another number of children can be asked for now; None if they can."""
        return self._upgrade.busy()

    def scale(self, by: int, cause: str) -> int:
        """So many children more (or less) than now, MOST_CHILDREN at the most; the number that is wanted then."""
        self._roster.scale(min(by, max(0, MOST_CHILDREN - self._roster.wanted)))
        return self._say_wanted(cause)

    def scale_to(self, number: int, cause: str) -> int:
        """So many children; the number that is wanted then."""
        self._roster.scale_to(number)
        return self._say_wanted(cause)

    def _say_wanted(self, cause: str) -> int:
        wanted = self._roster.wanted
        logger.info("%s: %s wanted", cause, reports.count(wanted, "child", "children"))
        return wanted

    def _scale_by_one(self, number: signal.Signals) -> None:
        if not self._refused(number):
            self.scale(1 if number == signal.SIGTTIN else -1, number.name)

    def _refused(self, number: signal.Signals) -> bool:
        """Whether `number` comes at a wrong moment, which is said."""
        busy = self.busy()
        if busy is not None:
            logger.warning("%s: %s", number.name, busy)
        return busy is not None

    def _interrupt(self) -> None:
        """SIGINT stops fast; a person's first Ctrl-C gives requests the time to finish."""
        gently = self._terminal and self._roster.shutdown is None
        self._hurry(Urgency.GRACEFUL if gently else Urgency.FAST)
        if gently:
            logger.info("press Ctrl-C again to stop at once")

    def _hurry(self, least: Urgency) -> None:
        """Stop, and faster than before if that has begun already."""
        begun = self._roster.shutdown
        self.stop(least if begun is None else Urgency(min(Urgency.NOW, begun.urgency + 1)))

    def _hang_up(self) -> None:
        """SIGHUP reloads, unless it comes because the terminal was closed."""
        if self._terminal and not self._nohup and not signals.on_a_terminal():
            self.stop(Urgency.GRACEFUL)
        elif not self._refused(signal.SIGHUP) and not self._roster.stopping:
            self._roster.ask_reload("SIGHUP", newer_code=False)

    def _rest(self) -> None:
        """SIGWINCH: no children until SIGHUP or SIGTTIN, with the sockets kept open."""
        if self._terminal or self._roster.shutdown is not None:
            return  # somebody has changed the size of the window
        if self._refused(signal.SIGWINCH):
            return
        if self._roster.current is None:
            logger.warning("SIGWINCH: nothing serves yet")
            return
        if self._roster.booting is not None:
            self._roster.booting.failure = BootFailure(0, "SIGWINCH")
        self._roster.current.wanted = 0
        logger.info("SIGWINCH: all children drain; SIGHUP or SIGTTIN brings them back")
