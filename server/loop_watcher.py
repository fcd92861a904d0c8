"""Many sockets watched in one event loop, cheaply: an epoll of our own, which is one reader of the loop.

asyncio's own way costs a Handle, a selector's key and a list for each event; here a batch of events costs one turn
of the loop. Promises: a callback runs in the loop, again and again while its descriptor is ready (level-triggered),
as asyncio's ``add_reader`` has it. Refuses: descriptors that are closed while they are watched (remove them first).

Belongs to the thread of its loop.
"""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Callable
from typing import Any, Final

from .listening import rest_after

_READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_WRITE: Final = select.EPOLLOUT
_READABLE: Final = _READ | select.EPOLLHUP | select.EPOLLERR
_WRITABLE: Final = _WRITE | select.EPOLLHUP | select.EPOLLERR
# Events taken at a time: then the loop's other callbacks have their turn.
BATCH: Final = 256

_Call = tuple[Callable[..., Any], tuple[Any, ...]]


class LoopWatcher:
    """See the module. ``close`` it before its loop; nothing is watched from then on, and adding raises OSError."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._readers: dict[int, _Call] = {}
        self._writers: dict[int, _Call] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call ``callback(*args)`` while ``fd`` is readable, at its end, or broken. Raises OSError."""
        self._add(self._readers, fd, (callback, args))

    def add_writer(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Call ``callback(*args)`` while ``fd`` is writable, or broken. Raises OSError."""
        self._add(self._writers, fd, (callback, args))

    def remove_reader(self, fd: int) -> bool:
        """Whether it was watched for that."""
        return self._remove(self._readers, fd)

    def remove_writer(self, fd: int) -> bool:
        """Whether it was watched for that."""
        return self._remove(self._writers, fd)

    def close(self) -> None:
        """Watch nothing any more. What is taken back later, by cancelled tasks, is gone already."""
        self._loop.remove_reader(self._epoll.fileno())
        self._readers.clear()
        self._writers.clear()
        self._epoll.close()

    def _add(self, calls: dict[int, _Call], fd: int, call: _Call) -> None:
        if self._epoll.closed:
            raise OSError(errno.EBADF, "the event loop is about to end, and waits for no client any more")
        known = calls.get(fd)
        if known is None:
            watched = fd in self._readers or fd in self._writers
            calls[fd] = call
            try:
                (self._epoll.modify if watched else self._epoll.register)(fd, self._interest(fd))
            except OSError:
                del calls[fd]
                raise
        else:
            calls[fd] = call

    def _remove(self, calls: dict[int, _Call], fd: int) -> bool:
        if calls.pop(fd, None) is None:
            return False
        interest = self._interest(fd)
        try:
            if interest:
                self._epoll.modify(fd, interest)
            else:
                self._epoll.unregister(fd)
        except OSError:
            pass  # closed already: the kernel has forgotten it
        return True

    def _interest(self, fd: int) -> int:
        return (_READ if fd in self._readers else 0) | (_WRITE if fd in self._writers else 0)

    def _turn(self) -> None:
        readers, writers = self._readers, self._writers
        try:
            found = self._epoll.poll(0, BATCH)
        except OSError as exc:
            rest_after(exc)
            return
        for fd, events in found:
            if events & _READABLE:
                call = readers.get(fd)
                if call is not None:
                    self._run(call)
            if events & _WRITABLE:
                call = writers.get(fd)
                if call is not None:
                    self._run(call)

    def _run(self, call: _Call) -> None:
        try:
            call[0](*call[1])
        except Exception as exc:  # noqa: BLE001 - as an event loop does it: one callback's mistake is not the others'
            self._loop.call_exception_handler({"message": f"exception in {call[0]!r}", "exception": exc})
