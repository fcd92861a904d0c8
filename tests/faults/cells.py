"""The cells of the matrix: which call of which process fails, with which errors, and what may come of it.

Errors are those that the manual pages name for the call, and what a filter of system calls (seccomp, a security
module) or a machine out of resources was seen to give. Refused: EBADF, EFAULT and the like, which are mistakes of a
program.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import (
    EAGAIN,
    ECONNABORTED,
    ECONNRESET,
    EINTR,
    EIO,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENOSPC,
    EPERM,
    EPIPE,
    EPROTO,
    ETIMEDOUT,
)
from typing import Final

from .bench import Cell

SHORT: Final = 0  # the call does one byte only

_OPENS: Final = (EMFILE, ENFILE, ENOMEM)
_ACCEPT: Final = (EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EINTR, EPROTO, EPERM)
_MEMORY: Final = (ENOMEM, ENOBUFS)


def _serving(role: str) -> Iterator[Cell]:
    """A process that serves connections."""
    for error in _ACCEPT:
        yield Cell(role, "accept", error, "listener", quick=error in (EMFILE, ECONNABORTED))
    for error in (ENOBUFS, ENOMEM, ECONNRESET, ETIMEDOUT, EINTR):
        blind = error != EINTR
        yield Cell(role, "recv", error, "client", cuts=blind, blind=blind, quick=error == ENOBUFS)
    for error in (ENOBUFS, ENOMEM, ECONNRESET, EPIPE, EINTR):
        blind = error != EINTR
        yield Cell(role, "send", error, "client", cuts=blind, blind=blind, quick=error == EPIPE)
    yield Cell(role, "recv", SHORT, "client", quick=True)
    yield Cell(role, "send", SHORT, "client", quick=True)
    for error in (ENOMEM, EINTR):
        yield Cell(role, "epoll_wait", error, blind=error != EINTR, quick=error == ENOMEM)
    for error in (ENOMEM, ENOSPC):
        yield Cell(role, "epoll_ctl", error, blind=True, quick=error == ENOMEM)
    for error in (ENOSPC, EIO, EPIPE, EAGAIN, EINTR, SHORT):
        yield Cell(role, "write", error, "log", quick=error == ENOSPC)
    yield Cell(role, "getsockname", ENOBUFS, "client", cuts=True, blind=False, quick=True)
    yield Cell(role, "poll", ENOMEM, quick=True)


def _worker(role: str) -> Iterator[Cell]:
    yield from _serving(role)
    for error in (ENOMEM, EIO, EINTR, SHORT):
        cuts = error in (ENOMEM, EIO)
        yield Cell(role, "sendfile", error, "client", cuts=cuts)
    for error in _OPENS:
        # The application's file cannot be opened: its request fails, as it would anywhere.
        yield Cell(role, "open", error, cuts=True, wrong=r"kind 0\): 500", noisy=True, quick=error == EMFILE)
        yield Cell(role, "open", error, "/proc")


def _master() -> Iterator[Cell]:
    """Its calls are made when somebody wants something."""
    for error in (EAGAIN, ENOMEM):
        yield Cell("master", "fork", error, poke="grow", quick=error == EAGAIN)
        yield Cell("master", "fork", error, poke="reload")
    for call in ("socketpair", "memfd_create", "dup", "open", "pidfd_open"):
        for error in _OPENS:
            yield Cell("master", call, error, poke="grow", quick=call == "pidfd_open" and error == EMFILE)
    for error in (ENOMEM, EINTR):
        yield Cell("master", "epoll_wait", error, poke="grow", quick=error == ENOMEM)
    for error in (ENOMEM, ENOSPC):
        yield Cell("master", "epoll_ctl", error, poke="grow", quick=error == ENOMEM)
    yield from _channel_and_board()
    for error in (ENOSPC, EIO, EPIPE, EINTR):
        yield Cell("master", "write", error, "log", poke="scale")
    for error in (EMFILE, ENOBUFS, ECONNABORTED):
        yield Cell("master", "accept", error, poke="status", quick=error == EMFILE)
    for error in _OPENS:
        yield Cell("master", "open", error, poke="reload", quick=error == EMFILE)


def _channel_and_board() -> Iterator[Cell]:
    """What the master says to its children and reads of them."""
    for error in (*_MEMORY, EINTR):
        # A drain of which the heirs cannot be named closes idle connections, as `reload.enabled` has it.
        yield Cell("master", "sendmsg", error, "channel", poke="reload", cuts=True, quick=error == ENOBUFS)
        yield Cell("master", "recv", error, "channel", poke="reload", quick=error == ENOBUFS)
    for error in (ENOMEM, ENOSPC, EIO):
        yield Cell("master", "pwrite", error, poke="grow", quick=error == ENOSPC)
        yield Cell("master", "pread", error, poke="reload")


def _admin() -> Iterator[Cell]:
    for error in _ACCEPT:
        yield Cell("admin", "accept", error, "listener", poke="probe", quick=error == EMFILE)
    for error in (ENOBUFS, ECONNRESET, EINTR):
        yield Cell("admin", "recv", error, "client", poke="probe")
        yield Cell("admin", "send", error, "client", poke="probe")
    for call in ("epoll_wait", "epoll_ctl", "poll"):
        yield Cell("admin", call, ENOMEM, poke="probe", quick=call == "epoll_wait")


def _watcher() -> Iterator[Cell]:
    for error in (*_MEMORY, EINTR):
        yield Cell("watcher", "send", error, "channel", poke="touch", quick=error == ENOBUFS)


def _template() -> Iterator[Cell]:
    for error in (EAGAIN, ENOMEM):
        yield Cell("template", "fork", error, poke="grow", quick=error == EAGAIN)
    for error in _OPENS:
        yield Cell("template", "socketpair", error, poke="grow", quick=error == EMFILE)
        yield Cell("template", "open", error, poke="grow")
    for error in _MEMORY:
        yield Cell("template", "recvmsg", error, "channel", poke="grow", quick=error == ENOBUFS)


# By the daemon (`bench.Bench`) that they need.
CELLS: Final = {
    "sync": [*_worker("worker"), *_master(), *_admin(), *_watcher()],
    "async": list(_worker("worker")),
    "tls": [cell for cell in _serving("worker") if cell.call in ("accept", "recv", "send")],
    "preload": list(_template()),
}
