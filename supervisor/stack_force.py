"""The stacks of a child whose main thread does not answer: it imports, or a long C call of another thread holds it up.

Promises: each thread of the child is sent the signal by which it writes its stack into the file that the master has
made for that (see server/stacks.py), one after the other, so that no two write at once; what a thread may have written
that was asked before is taken for nobody's; the master never waits for any of it. Refuses to signal
a process that has no handler for that yet: it would die of it.

Owned by the master's only thread.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from ..config.logs import escape_text
from ..server.scoreboard import ChildView
from ..server.stacks import SIGNAL, UNCLEAR, UNHEARD, is_pending, of_one_thread, parse, show, tgkill
from . import status_view

# How often the file is looked at. A thread that is scheduled writes 50 frames in 0.1 ms: one that has written nothing
# more since the last look is done.
LOOK: Final = 0.01
# It may have to wait for a processor; one in an uninterruptible system call never writes.
_PATIENCE: Final = 0.5
_MOST_THREADS: Final = 256
# faulthandler writes 100 frames at most; the child may make its file as large as it likes.
_MOST_TEXT: Final = 256 * 1024


class Force:
    """One child's threads, one after the other. Who has joined is called with a text for each."""

    def __init__(self, pid: int, file: int, view: ChildView | None) -> None:
        self.due = math.inf  # when `step` wants to be called; infinite when it is over
        self._pid = pid
        self._file = file
        self._listeners: list[Callable[[str], None]] = []
        self._said: list[str] = []
        self._serves = {} if view is None else _serves(view, time.monotonic())
        self._left: list[int] = []
        self._asked = 0
        self._silent: list[int] = []  # those that may still answer
        self._size = 0  # at the last look
        self._until = 0.0  # when it has had its time
        if file < 0 or not _handles(pid):
            self._say("its main thread does not answer, and it cannot be asked otherwise yet")
            return
        self._say("its main thread does not answer; what its threads have written themselves:")
        self._left = sorted(_threads(pid))[:_MOST_THREADS]
        self._silent = [thread for thread in self._left if is_pending(pid, thread)]  # asked by another before
        self.step()

    @property
    def is_over(self) -> bool:
        """All that there was to say has been said."""
        return self.due == math.inf

    def join(self, listener: Callable[[str], None]) -> None:
        """Tell `listener` too, from the beginning."""
        for text in self._said:
            listener(text)
        self._listeners.append(listener)

    def _say(self, text: str) -> None:
        self._said.append(text)
        for listener in self._listeners:
            listener(text)

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
            if thread in self._silent:
                self._tell(thread, [f"  {UNHEARD}"])
                continue
            try:
                self._silent = [silent for silent in self._silent if is_pending(self._pid, silent)]
                os.ftruncate(self._file, 0)  # with what the others have written by now
                # The child writes at the same place of the same file.
                self._size = os.lseek(self._file, 0, os.SEEK_SET)
                tgkill()(self._pid, thread, SIGNAL)
            except OSError:  # it has ended
                continue
            self._asked = thread
            self._until = now + _PATIENCE
            self.due = now + LOOK

    def _is_done(self, now: float) -> bool:
        before, self._size = self._size, os.fstat(self._file).st_size
        return now >= self._until or before == self._size > 0

    def _take(self) -> None:
        thread = self._asked
        text = os.pread(self._file, min(self._size, _MOST_TEXT), 0).decode(errors="replace")
        was_silent = self._silent
        self._silent = [silent for silent in was_silent if is_pending(self._pid, silent)]
        if is_pending(self._pid, thread):
            self._silent.append(thread)
            self._tell(thread, ["  nothing: it cannot be interrupted"])
        elif text and (len(was_silent) > len(self._silent) or not of_one_thread(text)):
            self._tell(thread, [f"  {UNCLEAR}"])
        else:
            lines = [f"  {line}" for frame in parse(text) for line in show(frame)]
            self._tell(thread, lines or ["  nothing: no Python code runs in it"])

    def _tell(self, thread: int, lines: list[str]) -> None:
        head = f"thread {_name(self._pid, thread)} ({thread}){self._serves.get(thread, '')}"
        self._say("\n".join([head, *lines]))


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
            return escape_text(file.read().strip())  # the thread chooses it itself
    except OSError:
        return "?"
