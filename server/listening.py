"""The listening sockets of a child, in the epoll of its queue; and what a loop does when it has no resources.

Promises: a listener's event wakes one thread, which accepts one connection; errors of the connection that was to be
accepted pass, errors of the machine (no descriptors, no memory) pause the listener, and ``resume`` goes on: no loop
ends or spins because a system call failed. A listener that is held back, as the child has no place, goes on as soon as
there is one. Refuses: to know what becomes of an accepted socket.

Threads: ``accept``, ``arm``, ``hold_back`` and ``let_in`` are called by any worker, everything else by the child's main
thread. The dicts are used by single operations, which are atomic in CPython.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final

from .seldom import SeldomLog

logger = logging.getLogger("serverd.worker")

# So much of a response may wait in the kernel to be sent (TCP_NOTSENT_LOWAT). Without a bound it takes 2.8 MB for each
# client that does not read: 1,000 of them are all the memory that TCP has on a machine of 24 GB (tcp_mem, tcp(7)). What
# is under way to the client does not count, so long and fast lines are filled as ever.
UNSENT: Final = 128 * 1024
_LISTEN: Final = select.EPOLLIN | select.EPOLLONESHOT
# Errors of the connection that was to be accepted, not of the listener (accept(2), "Error handling"): try the next one.
_NEXT: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EINTR,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
# epoll_ctl on a descriptor that was closed, or closed and used again, by its next owner.
STALE: Final = frozenset({errno.ENOENT, errno.EBADF})
# How long a listener rests when the machine is out of descriptors or memory. A peer without a pause made 20,000 failing
# calls in 5 s; half of a typical client's connect retry is too short to be noticed.
PAUSE: Final = 0.1
# So many errors in a row are no longer those of single connections: a filter of system calls or a security module says
# EPERM to each call, and takes none out of the backlog. Two threads that tried again at once took a whole core.
_MANY_MISSED: Final = 32
_say_seldom: Final = SeldomLog(logger)

Accepted = tuple[socket.socket, Any]  # and the peer's address, as accept(2) gives it


class Listeners:
    """See the module. ``notice`` tells the main thread that ``resume`` has something to do. Truthy if there are any."""

    def __init__(self, epoll: select.epoll, notice: Callable[[], None]) -> None:
        self._epoll = epoll
        self._notice = notice
        self._sockets: dict[int, socket.socket] = {}
        self._paused: dict[int, float] = {}  # descriptor -> when it may be tried again
        self.held_back: dict[int, float] = {}  # descriptor -> when who waits there may take another's place
        self._say = SeldomLog(logger)
        self.pauses = 0  # how often there was one; two threads at once may count one
        self._missed = 0  # errors in a row; threads that count at once may count one
        self.closed = False

    def __contains__(self, fd: int) -> bool:
        return fd in self._sockets

    def add(self, sock: socket.socket) -> None:
        """Accept from ``sock`` (listening; made non-blocking here, as two children may race for one connection)."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Inherited by every accepted socket (tcp(7)): a response is one write and must not wait for an ACK.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._sockets[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), _LISTEN)

    def accept(self, fd: int) -> Accepted | None:
        """One connection of the listener that has an event; ``arm`` or ``pause`` it then. None if there is none now."""
        listener = self._sockets.get(fd)
        if listener is None:
            return None
        try:
            accepted = listener.accept()
        except BlockingIOError:
            self.arm(fd)
        except OSError as exc:
            self._missed += 1
            if exc.errno in _NEXT and self._missed < _MANY_MISSED:
                self.arm(fd)
            elif not self.closed:
                self.pause(fd, exc)
        else:
            if self._missed:
                self._missed = 0
            return accepted
        return None

    def arm(self, fd: int) -> None:
        """Let the listener's next connection wake a thread. It may have been removed meanwhile, by a drain."""
        try:
            self._epoll.modify(fd, _LISTEN)
        except OSError as exc:
            if exc.errno not in STALE:
                self.pause(fd, exc)

    def pause(self, fd: int, exc: OSError) -> None:
        """Leave the listener disarmed for a while: the machine has no more to give. The backlog keeps what comes
        meanwhile."""
        self._say("accept failed: %s; it pauses for %.1f s (raise LimitNOFILE if this repeats)", exc, PAUSE)
        if fd not in self._paused:
            self.pauses += 1
        self._paused[fd] = monotonic() + PAUSE
        self._notice()

    def hold_back(self, fd: int) -> None:
        """Leave the listener disarmed until there is a place: the child has none. Somebody waits in the backlog."""
        self.pauses += 1
        self.held_back[fd] = monotonic() + PAUSE
        self._notice()

    def let_in(self) -> None:
        """There is a place now."""
        for fd in list(self.held_back):
            if self.held_back.pop(fd, None) is not None:
                self.arm(fd)

    def resume(self, now: float, has_room: Callable[[], bool]) -> float:
        """Arm those whose pause is over, and those that are held back if there is nobody left who waits, or somebody's
        place for who does (``has_room``, which may make some); the time when to call again."""
        again = float("inf")
        for fd, until in list(self._paused.items()):
            if until > now:
                again = min(again, until)
            else:
                self._paused.pop(fd, None)
                self.arm(fd)
        for fd, until in list(self.held_back.items()):
            if until > now:
                again = min(again, until)
            elif not self._somebody_waits(fd) or has_room():
                self.held_back.pop(fd, None)
                self.arm(fd)
            else:
                again = min(again, now + PAUSE)
        return again

    def _somebody_waits(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self, *, take_backlog: bool) -> Iterator[Accepted]:
        """Let go of all of them; with ``take_backlog`` gives what waits in their backlogs first."""
        self.closed = True
        for fd, listener in list(self._sockets.items()):
            del self._sockets[fd]
            self._paused.pop(fd, None)
            self.held_back.pop(fd, None)
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed by who made it: the kernel has forgotten it
            missed = 0
            while take_backlog and missed < _MANY_MISSED:
                try:
                    accepted = listener.accept()
                except OSError as exc:
                    if exc.errno not in _NEXT:
                        break
                    missed += 1
                    continue
                missed = 0
                yield accepted
            listener.close()


def rest_after(exc: OSError, what: str = "epoll_wait") -> None:
    """A system call failed that the loop cannot do without (ENOMEM from epoll_wait was seen to kill four peers): say so
    now and then, as every thread may see it ten times a second, and do not spin."""
    say_failed(what, exc)
    sleep(PAUSE)


def say_failed(what: str, exc: OSError) -> None:
    """As ``rest_after``, for who has something else to do until ``PAUSE`` is over."""
    _say_seldom("%s failed: %s; trying again every %.1f s", what, exc, PAUSE)


def patient_poll(poll: select.poll, timeout: float | None = None) -> list[tuple[int, int]]:
    """``poll.poll``, for a thread that has to go on: nothing, a while later, when it fails."""
    try:
        return poll.poll(timeout)
    except OSError as exc:
        rest_after(exc, "poll")
        return []
