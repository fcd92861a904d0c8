"""The master's watch over its children: it looks at the scoreboard when a thread may be lost, and has such a child
replaced.

Promises: a sick child is replaced as a worn one is (policy.py): its successor boots first, one child at a time, so
that an application that loses threads again and again cannot pile up children; while it drains it is not waited for
when only lost threads are left in it. systemd's watchdog hears nothing while a child serves nobody and no successor
comes (`standing`). A pause of the whole service, as a container or a virtual machine has it, is told from lost threads
by the master's own sleep: when that was much too long, every child gets a fresh limit. Refuses to look without a
reason: with no limit it never wakes the master.

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
import math
from typing import Final

from ..server.scoreboard import ChildView
from . import reports, watchdog
from .board import Board
from .child_state import State
from .facts import History
from .roster import Child, Roster

logger = logging.getLogger("serverd.master")

REASON: Final = "watchdog"
# How often a sick child is looked at, in seconds: it may recover, lose more threads, or have nothing else to finish.
_SICK_LOOK: Final = 1.0
# A main thread may be late for as long as this whatever the limits say, in seconds: machines are busy at times.
_LEAST_FROZEN: Final = 2.0
# CLOCK_MONOTONIC runs on while nobody can run. A master that comes later by more than this than it had asked for has
# been paused, and all its children with it; machines are busy for less.
_PAUSE: Final = 1.0
# It sleeps for a part of the limit at most, in seconds for small ones: a pause within one sleep is not noticed.
_PART: Final = 4
_LEAST_SLEEP: Final = 1.0


class Vigil:
    """See the module. `alive`: how long a main thread may be overdue where `timeouts.stuck` does not say it, in
    seconds: the interval of systemd's watchdog, 0 without one."""

    def __init__(self, roster: Roster, board: Board, history: History, alive: float) -> None:
        self._roster = roster
        self._board = board
        self._history = history
        self._alive = alive
        self._again = math.inf
        self._asked = math.inf  # what `tend` has said last
        self._thaw = -math.inf  # the end of the last pause
        self._known: tuple[tuple[int, State], ...] = ()
        self._hopeless: dict[int, float] = {}  # children with nothing left to wait for: since when, by pid

    def tend(self, now: float) -> float:
        """Look if it is time; when to call again."""
        if now > self._asked + _PAUSE:
            logger.warning(
                "this process could not run for %.1f s, nor could its children, it seems: they get a fresh limit",
                now - self._asked,
            )
            self._thaw = now
            self._again = now
        known = tuple((child.pid, child.state) for child in self._roster.children)
        if known != self._known or now >= self._again:
            self._known = known
            self._again = min((self._look(child, now) for child in self._roster.children), default=math.inf)
            self._hopeless = {
                pid: since for pid, since in self._hopeless.items() if (pid, State.DRAINING) in known
            }
        self._asked = self._again if self._again == math.inf else min(self._again, now + self._sleep())
        return self._asked

    def _sleep(self) -> float:
        limits = [self._limit(child) or self._alive for child in self._roster.children]
        return max(min((limit for limit in limits if limit), default=0.0) / _PART, _LEAST_SLEEP)

    def _look(self, child: Child, now: float) -> float:
        limit = self._limit(child)
        if child.state not in (State.READY, State.DRAINING) or not (limit or self._alive):
            return math.inf
        if child.state is State.DRAINING and child.worn != REASON:
            return math.inf
        view = self._board.look(child.papers.region)
        if view is None:
            return math.inf
        finding = watchdog.examine(view, limit, max(limit or self._alive, _LEAST_FROZEN), now, self._thaw)
        child.standing = finding.standing
        if child.state is State.DRAINING:
            return self._hasten(child, view, finding, now)
        self._count(child, finding)
        if finding.sick and self._roster.wear_out(child, REASON, now):
            lost = reports.count(len(finding.stuck), "thread")
            what = "does not move" if finding.frozen else f"has lost {lost}"
            logger.error("%s (pid %d) %s: it is replaced", child.name, child.pid, what)
            for line in watchdog.words(finding, limit, now):
                logger.error("%s: %s", child.name, line)
        return now + _SICK_LOOK if finding.sick else finding.again

    def _hasten(self, child: Child, view: ChildView, finding: watchdog.Finding, now: float) -> float:
        """Nobody waits for a thread that will not come back: one that was found so twice, a moment apart."""
        if not (finding.frozen or watchdog.nothing_else_left(view, finding.stuck)):
            self._hopeless.pop(child.pid, None)
        elif now >= self._hopeless.setdefault(child.pid, now) + _SICK_LOOK:
            child.patience = min(child.patience, now)
            return math.inf
        return now + _SICK_LOOK

    def _count(self, child: Child, finding: watchdog.Finding) -> None:
        more = len(finding.stuck) - child.lost_threads
        if more > 0:
            child.lost_threads += more
            self._history.lost_threads += more

    def _limit(self, child: Child) -> float:
        generation = self._roster.generation(child.generation) or self._roster.current
        return generation.config.timeouts.stuck if generation is not None else 0.0
