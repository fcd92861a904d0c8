"""One round for each `serverd stacks`: every child is asked, and what they say goes to who has asked.

Promises: a round ends, whatever the children do: one that does not answer in time is named; what a child says unasked,
or too much of, is dropped. Refuses to understand a stack.

Owned by the master's only thread.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from ..server.channel import Stacks, StacksAre
from .control import Reply
from .roster import Child, Roster

# A child's main thread answers at once; it may wait half a second for each thread that does not.
PATIENCE: Final = 5.0
# Of one child, in characters: 256 threads with 16 KiB each.
_MOST_TEXT: Final = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Round:
    number: int
    reply: Reply
    deadline: float
    waiting: list[Child]
    said: dict[int, int] = field(default_factory=dict)  # characters so far, by pid


class StackRounds:
    """See the module."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._rounds: list[_Round] = []
        self._last = 0

    def begin(self, reply: Reply) -> None:
        """Ask all children."""
        self._last += 1
        children = [child for child in self._roster.children if child.pid]
        this = _Round(self._last, reply, time.monotonic() + PATIENCE, children)
        self._rounds.append(this)
        for child in children:
            if child.channel is not None:
                child.channel.send(Stacks(this.number))
        self._finish(this)

    def heard(self, child: Child, message: StacksAre) -> None:
        """`child` has said something about one of its threads."""
        this = next((item for item in self._rounds if item.number == message.request), None)
        if this is None or child not in this.waiting or not isinstance(message.text, str):
            return
        said = this.said[child.pid] = this.said.get(child.pid, 0) + len(message.text)
        if message.text and said <= _MOST_TEXT:
            this.reply.event("stack", child=child.name, pid=child.pid, text=message.text)
        if message.last:
            this.waiting.remove(child)
            self._finish(this)

    def gone(self, child: Child) -> None:
        """`child` has exited."""
        for this in list(self._rounds):
            if child in this.waiting:
                self._give_up(this, child, "it has exited")
                self._finish(this)

    def tend(self, now: float) -> float:
        """End the rounds whose time is over; when to look again, infinite for never."""
        for this in [item for item in self._rounds if item.deadline <= now]:
            for child in list(this.waiting):
                self._give_up(
                    this, child, f"it does not answer within {PATIENCE:g} s (state: {child.state.value})"
                )
            self._finish(this)
        return min((this.deadline for this in self._rounds), default=math.inf)

    def _give_up(self, this: _Round, child: Child, why: str) -> None:
        this.waiting.remove(child)
        this.reply.event("stack", child=child.name, pid=child.pid, text=why)

    def _finish(self, this: _Round) -> None:
        if not this.waiting:
            self._rounds.remove(this)
            this.reply.succeed()
