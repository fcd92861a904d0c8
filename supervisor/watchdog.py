"""When a thread is lost: decided from what a child has written into the scoreboard, purely.

Promises: a thread that one request has held for `timeouts.stuck`, or whose event loop has not turned for so long, is
stuck; a child whose main thread has not looked up for so long after the time that it had promised is frozen, whatever
its threads do; until the time that is named nothing has to be looked at. So the master looks twice in a limit at
most, and a thread is found at once when its time is over. What was before a pause of the whole service (`thaw`) is
held against nobody. Refuses: to ask a child, which may not answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..server.scoreboard import ChildView, SlotView

# The times in the scoreboard and the wake-up of a selector may differ by the granularity of both.
_GRAIN: Final = 0.005


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one child, if anything is; `again`: when to look again if nothing is done."""

    stuck: tuple[SlotView, ...]
    frozen: float  # seconds since its main thread should have looked up; 0: it does
    standing: bool  # nothing in it serves any more
    again: float

    @property
    def sick(self) -> bool:
        """It has to be replaced."""
        return bool(self.stuck) or self.frozen > 0


def examine(
    view: ChildView, limit: float, frozen_limit: float, now: float, thaw: float = -math.inf
) -> Finding:
    """Look at one child. `limit`: timeouts.stuck, 0 for never; `frozen_limit`: the same for its main thread; `thaw`:
    when nobody had been able to run before, for longer than the machine is ever busy."""
    again = math.inf
    stuck: list[SlotView] = []
    threads = [slot for slot in view.slots if slot.native_id and slot.role != "main"]
    if limit:
        again = now + limit  # a request that begins now is too old then, and none before
        for slot in threads:
            held = 0.0 if slot.state in ("reading", "writing") else slot.held(now)  # its client holds it
            held = min(held, now - thaw)
            if held + _GRAIN >= limit:
                stuck.append(slot)
            elif held:
                again = min(again, now + limit - held)
    frozen = 0.0
    if frozen_limit and view.due is not None:
        due = max(view.due, thaw)
        overdue = now - due
        if overdue + _GRAIN >= frozen_limit:
            frozen = max(overdue, _GRAIN)
        else:
            again = min(again, due + frozen_limit)
    serving = [slot for slot in threads if slot.role == "worker"] or threads
    standing = frozen > 0 or (bool(stuck) and all(slot in stuck for slot in serving))
    return Finding(tuple(stuck), frozen, standing, again)


def nothing_else_left(view: ChildView, stuck: Iterable[SlotView]) -> bool:
    """Whether a child that drains has nothing to wait for but threads that will not come back."""
    lost = {slot.place for slot in stuck}
    return bool(lost) and all(
        slot.place in lost or (slot.since is None and not slot.waiting) for slot in view.slots
    )


def words(finding: Finding, limit: float, now: float) -> list[str]:
    """What was found, a line for each thread."""
    lines = []
    if finding.frozen:
        lines.append(f"its main thread has not looked up for {finding.frozen:.1f} s")
    for slot in finding.stuck:
        name = "its home loop" if slot.role == "loop" else f"thread {slot.native_id}"
        if slot.since is not None:
            held = f"held by {slot.method} {slot.path} for {now - slot.since:.1f} s"
            lines.append(f"{name} is {held} (timeouts.stuck: {limit:g} s)")
        else:
            lines.append(
                f"{name} stands still for {slot.held(now):.1f} s (timeouts.stuck: {limit:g} s), "
                f"and {slot.waiting} requests wait in its event loop"
            )
    return lines
