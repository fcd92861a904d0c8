"""The canary: the first child of a new generation serves beside the old ones for `reload.canary`, and is compared.

Promises: the new one and the old ones are read at the same moments, so that what is compared was answered in the same
time; a child that is not there from the beginning to the end does not count. Refuses to judge (canary.py) and to
decide when to look (policy.py).

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..server.scoreboard import ChildView, Totals
from .canary import Sample, complaint, hangs, verdict
from .roster import BOOT_FAILURE_STATUS, BootFailure, Child, Generation, Roster

logger = logging.getLogger("serverd.master")


class Trial:
    """See the module. `read` gives what a child has written so far; None when that cannot be read."""

    def __init__(self, roster: Roster, read: Callable[[Child], ChildView | None]) -> None:
        self._roster = roster
        self._read = read
        self._on = 0  # the number of the generation on trial
        self._before: dict[Child, Totals] = {}

    def look(self, generation: Generation, child: Child, end: float, now: float) -> None:
        """Compare what `child` has answered with what the serving generation has; pass or fail it."""
        generation.looked_at = now
        if self._on != generation.number:
            self._begin(generation, child, end - now)
            return
        old, new = self._samples(child)
        words = complaint(old, new)
        if child.standing or child.worn == "watchdog":
            words = words or "its threads are lost"
        if now >= end:
            words = words or self._hanging(child, now, end)
        if words:
            self._before = {}
            generation.failure = BootFailure(BOOT_FAILURE_STATUS, f"canary: {words}")
            logger.error("%s (pid %d): canary: %s: rolling back", child.name, child.pid, words)
        elif now >= end:
            self._before = {}
            generation.on_trial = False
            logger.info("%s", verdict(new))

    def _begin(self, generation: Generation, child: Child, seconds: float) -> None:
        current = self._roster.current
        assert current is not None
        logger.info(
            "canary: %s (pid %d) serves beside generation %d for %.3g s",
            child.name,
            child.pid,
            current.number,
            seconds,
        )
        self._on = generation.number
        children = [child, *self._roster.ready(current)]
        self._before = {each: view.totals for each in children if (view := self._read(each)) is not None}

    def _samples(self, child: Child) -> tuple[Sample, Sample]:
        """What the old children and the new one have answered since the beginning."""
        old = [Totals(), Totals()]
        new = [Totals(), Totals()]
        for each, before in self._before.items():
            after = self._read(each) if each in self._roster.children else None
            if after is not None:
                pair = new if each is child else old
                pair[0] += before
                pair[1] += after.totals
        return Sample.between(*old), Sample.between(*new)

    def _hanging(self, child: Child, now: float, end: float) -> str:
        ages = {
            each: _oldest(self._read(each), now) for each in self._before if each in self._roster.children
        }
        began = child.ready_at or now
        return hangs(ages.pop(child, 0.0), max(ages.values(), default=0.0), end - began)


def _oldest(view: ChildView | None, now: float) -> float:
    """The age of the oldest request under way; without websockets and event streams, which are meant to last."""
    if view is None:
        return 0.0
    starts = [slot.since for slot in view.slots if slot.since is not None]
    starts += [one.since for one in view.waiting if one.kind == "request"]
    return max((now - at for at in starts), default=0.0)
