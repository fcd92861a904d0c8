"""Errands: what the next worker that is free does for the child, beside connections.

Each has a descriptor that is always readable, armed ONESHOT in the epoll of the queue when it is wanted: it then stands
behind all that is ready (epoll is first in, first out).

Threads: ``add`` is for the child's main thread, before anything is armed; all else for any thread.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from typing import Final

from .seldom import SeldomLog

_say: Final = SeldomLog(logging.getLogger("serverd.worker"))


class Errands:
    """See the module."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._errands: dict[int, Callable[[], bool]] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._errands

    def add(self, fd: int, errand: Callable[[], bool]) -> None:
        """Have the worker that takes an event of ``fd`` run ``errand``. True: its ``get`` returns None, so that it
        looks around. Nothing happens until it is armed."""
        self._errands[fd] = errand
        self._epoll.register(fd, select.EPOLLONESHOT)

    def arm(self, fd: int) -> bool:
        """Put it behind all that is ready now, once. False: no memory."""
        try:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
        except (OSError, ValueError) as exc:
            if not self._epoll.closed:
                _say("epoll_ctl failed: %s", exc)
            return False
        return True

    def run(self, fd: int) -> bool:
        """Run the errand of ``fd``, if it is one; what that said."""
        errand = self._errands.get(fd)
        return errand is not None and errand()
