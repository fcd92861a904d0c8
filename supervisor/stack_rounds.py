"""One round for each `serverd stacks`: every child is asked, and what they say goes to who has asked.

Promises: a round ends, whatever the children do: one that does not begin to answer in time is asked thread by thread,
without its help (stack_force.py); what a child says unasked, or too much of, is dropped.

Owned by the master's only thread.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

from ..server.channel import Stacks, StacksAre
from .board import Board
from .control import Reply
from .roster import Child, Roster
from .stack_force import Force

# A child's main thread answers at once, unless it is held up.
PATIENCE: Final = 1.0
# Once it has begun, it may wait half a second for each thread that does not answer it.
LONGEST: Final = 10.0
# Of one child, in characters: 256 threads with 16 KiB each.
_MOST_TEXT: Final = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Round:
    number: int
    reply: Reply
    began: float
    waiting: list[Child]
    said: dict[int, int] = field(default_factory=dict)  # characters so far, by pid
    forced: dict[int, Force] = field(default_factory=dict)  # children that have not begun to answer, by pid

    def say(self, child: Child, text: str) -> None:
        self.reply.event("stack", child=child.name, pid=child.pid, text=text)

    def due(self, child: Child) -> float:
        """When something has to be done about `child`."""
        if child.pid in self.forced:
            force = self.forced[child.pid]
            return force.due if not force.is_over else self.began
        return self.began + (LONGEST if child.pid in self.said else PATIENCE)


class StackRounds:
    """See the module."""

    def __init__(self, roster: Roster, board: Board) -> None:
        self._roster = roster
        self._board = board
        self._rounds: list[_Round] = []
        self._last = 0

    def begin(self, reply: Reply) -> None:
        """Ask all children."""
        self._last += 1
        children = [child for child in self._roster.children if child.pid]
        this = _Round(self._last, reply, time.monotonic(), children)
        self._rounds.append(this)
        for child in children:
            if child.channel is not None:
                child.channel.send(Stacks(this.number))
        self._end_if_over(this)

    def heard(self, child: Child, message: StacksAre) -> None:
        """`child` has said something about one of its threads."""
        this = next((item for item in self._rounds if item.number == message.request), None)
        if this is None or child not in this.waiting or not isinstance(message.text, str):
            return
        if child.pid in this.forced:  # too late
            return
        said = this.said[child.pid] = this.said.get(child.pid, 0) + len(message.text)
        if message.text and said <= _MOST_TEXT:
            this.say(child, message.text)
        if message.last:
            this.waiting.remove(child)
            self._end_if_over(this)

    def gone(self, child: Child) -> None:
        """`child` has exited."""
        for this in list(self._rounds):
            if child in this.waiting:
                this.say(child, "it has exited")
                this.waiting.remove(child)
                self._end_if_over(this)

    def tend(self, now: float) -> float:
        """Go on with those whose time has come; when to look again, infinite for never."""
        for this in list(self._rounds):
            for child in list(this.waiting):
                if this.due(child) <= now:
                    self._go_on(this, child)
            self._end_if_over(this)
        return min((this.due(child) for this in self._rounds for child in this.waiting), default=math.inf)

    def _go_on(self, this: _Round, child: Child) -> None:
        """`child` has not answered in time, or not to the end, or its next thread is to be asked."""
        force = this.forced.get(child.pid)
        if force is not None:
            if not force.is_over:
                force.step()
        elif child.pid in this.said:
            this.say(child, f"it did not finish within {LONGEST:g} s")
            this.waiting.remove(child)
            return
        else:
            force = this.forced[child.pid] = self._force(child)
            force.join(lambda text: this.say(child, text))
        if force.is_over:
            this.waiting.remove(child)

    def _force(self, child: Child) -> Force:
        """One at a time for each child: two that ask would take each other's answers."""
        for this in self._rounds:
            force = this.forced.get(child.pid)
            if force is not None and not force.is_over:
                return force
        return Force(child.pid, child.papers.stacks, self._board.look(child.papers.region))

    def _end_if_over(self, this: _Round) -> None:
        if not this.waiting:
            self._rounds.remove(this)
            this.reply.succeed()
