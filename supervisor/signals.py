"""Signals as bytes: the kernel's interruption becomes something that the master's selector can wait for.

Promises: no handler of ours does anything (CPython's C handler writes the signal's number into a socket, see
signal.set_wakeup_fd, and the loop thinks); a signal that comes while the master works is read in the next
round, in order; a forked child starts with the kernel's dispositions and without a way into the master's
socket. Refuses to know what a signal means (master.py).

Owned by the master's only thread; `Signals.install` must run in the main thread of the interpreter, as CPython
demands.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# The signals of DESIGN's conventions. SIGCHLD is there for PID 1 alone: a pidfd tells the exit of our own children.
WATCHED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGWINCH,
    signal.SIGCHLD,
)


class Signals:
    """The reading end of the signals that were sent to the master."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def install(self) -> None:
        """From now on the watched signals arrive in `read`."""
        signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, _nothing)

    def read(self) -> list[signal.Signals]:
        """The signals since the last call, in the order of their arrival."""
        try:
            found = self.reader.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in found]

    def close(self) -> None:
        """Give up watching; the kernel's dispositions are back."""
        restore()
        self.reader.close()
        self.writer.close()


def restore() -> None:
    """The dispositions of a program that has just been started. SIGINT stays ignored.

    For a child: a terminal sends SIGINT to the whole foreground group, and it is the master who decides what it
    means; the child's own main sets what it wants instead.
    """
    signal.set_wakeup_fd(-1)
    for number in WATCHED:
        signal.signal(number, signal.SIG_IGN if number is signal.SIGINT else signal.SIG_DFL)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait while the block runs.

    Around a fork: one that came to the child before `restore` would go into the socket that it shares with the
    master. The block leaves with the mask that was there before; a child that never leaves it calls
    `let_through`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """No signal waits any more; for a child, after `restore`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def on_a_terminal() -> bool:
    """Whether this process has a controlling terminal, from which Ctrl-C and changes of the window come."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _nothing(number: int, frame: object) -> None:
    """Python's side of a watched signal: its number is in the socket already."""
