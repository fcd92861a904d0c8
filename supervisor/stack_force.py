"""The stacks of a child whose main thread does not answer: it imports, or a long C call of another thread holds it up.

Promises: each thread of the child is sent the signal by which it writes its stack into the file that the master has
made for the child's last words (see server/stacks.py), one after the other, so that no two write at once; the master
never waits for any of it. Refuses to signal a process that has no handler for that yet: it would die of it.

Owned by the master's only thread.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from ..server.scoreboard import ChildView
from ..server.stacks import SIGNAL, parse, show, tgkill
from . import status_view

# How often the file is looked at. A thread that is scheduled writes 50 frames in 0.1 ms: one that has written nothing
# more since the last look is done.
LOOK: Final = 0.01
# It may have to wait for a processor; one in an uninterruptible system call never writes.
_PATIENCE: Final = 0.5
_MOST_THREADS: Final = 256


class Force:
    """One child's threads, one after the other. `say` is called with a text for each."""

    def __init__(self, pid: int, words: int, view: ChildView | None, say: Callable[[str], None]) -> None:
        self.due = math.inf  # when `step` wants to be called; infinite when it is over
        self._pid = pid
        self._words = words
        self._say = say
        self._serves = {} if view is None else _serves(view, time.monotonic())
        self._left: list[int] = []
        self._asked = 0
        self._before = 0  # where it began to write
        self._size = 0  # at the last look
        self._until = 0.0  # when it has had its time
        if words < 0 or not _handles(pid):
            say("its main thread does not answer, and it cannot be asked otherwise yet")
            return
        say("its main thread does not answer; what its threads have written themselves:")
        self._left = sorted(_threads(pid))[:_MOST_THREADS]
        self.step()

    def step(self) -> None:
        """Look whether the thread that was asked last is done; then ask the next."""
        now = time.monotonic()
        if self._asked and not self._is_done(now):
            self.due = now + LOOK
            return
        if self._asked:
            self._take()
        self._asked = 0
        self.due = math.inf
        while self._left and not self._asked:
            thread = self._left.pop(0)
            try:
                self._before = self._size = os.lseek(self._words, 0, os.SEEK_END)
                tgkill()(self._pid, thread, SIGNAL)
            except OSError:  # it has ended
                continue
            self._asked = thread
            self._until = now + _PATIENCE
            self.due = now + LOOK

    def _is_done(self, now: float) -> bool:
        before, self._size = self._size, os.fstat(self._words).st_size
        return now >= self._until or before == self._size > self._before

    def _take(self) -> None:
        thread = self._asked
        text = os.pread(self._words, max(0, self._size - self._before), self._before).decode(errors="replace")
        os.ftruncate(self._words, self._before)
        os.lseek(
            self._words, self._before, os.SEEK_SET
        )  # the child writes at the same place of the same file
        lines = [f"  {line}" for frame in parse(text) for line in show(frame)]
        head = f"thread {_name(self._pid, thread)} ({thread}){self._serves.get(thread, '')}"
        self._say(
            "\n".join(
                [head, *(lines or ["  nothing: no Python code runs in it, or it cannot be interrupted"])]
            )
        )


def _serves(view: ChildView, now: float) -> Mapping[int, str]:
    return {
        slot.native_id: f" holds {slot.method} {slot.path} ({status_view.age(now - slot.since)})"
        for slot in view.slots
        if slot.since is not None
    }


def _handles(pid: int) -> bool:
    """Whether the process has a handler for the signal (proc_pid_status(5), SigCgt)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            caught = next((line.split()[1] for line in file if line.startswith("SigCgt:")), "0")
        return bool(int(caught, 16) >> (SIGNAL - 1) & 1)
    except OSError, ValueError, IndexError:
        return False


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _name(pid: int, thread: int) -> str:
    try:
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
