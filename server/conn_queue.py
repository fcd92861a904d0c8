"""The queue of connections: one epoll of a child, on which every worker thread waits.

The kernel is the queue. An event of a listening socket or of a parked connection wakes one thread, which then owns what
it got: there is no dispatcher, and a worker accepts only when it is idle. Between two requests a connection is
registered edge-triggered, and stays so while it is served: a request then costs no ``epoll_ctl``. All else is ONESHOT.

Promises: ``get`` gives each ready connection to exactly one caller; a parked connection costs no thread; a failing
system call neither ends nor spins a loop (see ``listening``). Refuses: to look into a connection's bytes.

Threads: ``get``, ``park`` and ``close`` are called by any worker for a connection that it owns; everything else by the
child's main thread. ``_table`` is one dict, whose single operations are atomic in CPython (with and without a GIL); the
ownership lock of each connection decides every race between them (see ``connection``).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, Literal

from ..config import TimeoutsConfig
from .conn_table import ConnectionTable, MakeConnection
from .connection import SINCE, Address, Connection, Server
from .deadlines import SETTLED, Deadlines, excused, is_idle, wants_at_once
from .departing import Departing
from .door import Door
from .errands import Errands
from .lifecycle import LifecycleEvent
from .listening import Listeners
from .longest_idle import LongestIdle
from .per_address import PerAddress
from .phases import AT_ONCE, EDGE, INTEREST, Phase
from .ready_events import Event, ReadyEvents
from .unarmed import Unarmed

# EPOLLIN, as a number: see `INTEREST`.
_IN: Final = 0x1
_NOTHING: Final = 0x40000000  # EPOLLONESHOT alone: an error is reported, once


class ConnectionQueue:
    """See the module. ``max_connections`` bounds the open connections of this child; 0 is unbounded. ``addresses``
    counts those of each client.

    ``make_connection`` is called by any thread.
    """

    def __init__(
        self,
        timeouts: TimeoutsConfig | None = None,
        *,
        max_connections: int = 0,
        record: Callable[[LifecycleEvent], None] | None = None,
        make_connection: MakeConnection = Connection,
        addresses: PerAddress | None = None,
    ) -> None:
        self._deadlines = Deadlines(timeouts or TimeoutsConfig())
        self._connections = ConnectionTable(max_connections, record, make_connection, addresses)
        self._table = self._connections.by_fd
        self._epoll = select.epoll()
        self._modify = self._epoll.modify
        self.events = ReadyEvents(self._epoll, self._put_back)
        self._listeners = Listeners(self._epoll, self.notice)
        self._longest_idle = LongestIdle(self._connections, self.close, self.give_back)
        self._door = Door(self._connections, self._listeners, self._park_new, self._longest_idle)
        self.errands = Errands(self._epoll)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        # Written when the child's main thread should look: a listener was paused, the last connection has left.
        self.attention = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._unarmed = Unarmed(self.notice)
        self.closed = False
        self.congested = False  # no thread was idle of late; written by the child's main thread
        self.alone = False  # no other child accepts from the same listeners
        self.retiring = False  # no more connections come: the child drains
        self.departure: Departing | None = None  # set once, in a drain

    # -- for workers ---------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Connection | None:
        """The next connection with something to do, owned by the caller; None after ``timeout`` s or when woken."""
        events = self.events
        waiting = events.waiting
        while True:
            try:
                event = waiting.popleft() if waiting else events.next(timeout)
            except IndexError:  # somebody was quicker
                continue
            if event is None:
                return None
            fd, mask = event
            conn = self._table.get(fd)
            if conn is not None:
                if conn.owned.acquire(False) or self._missed(conn):
                    if mask != _IN:
                        conn.rearm = True  # its end, which is no new edge when the bytes before it were read
                    return conn
            elif (found := self._other(fd)) is not False:
                return found
            if timeout == 0:
                return None

    def _other(self, fd: int) -> Connection | Literal[False] | None:
        """What ``get`` gives for the event of something that is no connection; False: it looks for the next one."""
        if fd in self._listeners:
            return self._door.accept(fd, alone=self.alone, congested=self.congested) or False
        if fd == self._wake or self.errands.run(fd):
            return None
        return False

    def _missed(self, conn: Connection) -> bool:
        """Its owner is to know, when it parks it, that an event came. True: it was parked just now, and is ours."""
        conn.rearm = True
        return conn.owned.acquire(False)

    def park(self, conn: Connection, *, keep_deadline: bool = False, at_once: bool = False) -> None:
        """Give up ownership until the connection has something to do, or its phase's deadline has passed.

        ``at_once``: its next request is here already, and whoever calls ``get`` shall serve it; or its handshake has
        something to send.
        """
        if not keep_deadline:
            conn.numbers[SINCE] = monotonic()
        if self.departure is not None and self.departure.takes(conn):
            return
        interest = EDGE if conn.phase == Phase.IDLE and not at_once else INTEREST[conn.phase]
        if at_once:
            interest |= AT_ONCE
        # Armed while it is owned. Who gets an event before it is free leaves a note, see `_missed`.
        if (interest != EDGE or conn.watched != EDGE or conn.rearm) and not self._arm(conn, interest):
            return
        while True:
            conn.owned.release()
            if not conn.rearm or not conn.owned.acquire(False) or not self._arm(conn, conn.watched):
                return

    def park_idle(self, conn: Connection, now: float) -> None:
        """As ``park``, of a connection whose response went out whole: ``IDLE``, and no next request is here yet."""
        conn.numbers[SINCE] = now
        if conn.watched != EDGE or conn.rearm or self.departure is not None:
            self.park(conn, keep_deadline=True)
            return
        conn.owned.release()
        if conn.rearm and conn.owned.acquire(False):
            self.give_back(conn)

    def _arm(self, conn: Connection, interest: int) -> bool:
        """Have the epoll report ``conn``, which the caller owns, at once if there is something. False: there is no
        memory, and ``tend`` tries again."""
        conn.rearm = False
        known, conn.watched = conn.watched, interest
        try:
            self._watch(conn.fd, interest, known)
        except OSError as exc:
            self._unarmed.add(conn, exc)
            return False
        return True

    def _watch(self, fd: int, interest: int, known: int) -> None:
        """``known``: what the epoll watches it for now; 0: it does not."""
        if known:
            self._modify(fd, interest)
            return
        try:
            self._epoll.register(fd, interest)
        except FileExistsError:
            # It could not be armed the last time, or its number's last owner is still known.
            self._modify(fd, interest)

    def _put_back(self, event: Event) -> None:
        """Have the epoll report again what was ready: an idle thread is to take it."""
        fd = event[0]
        conn = self._table.get(fd)
        if conn is not None:
            if conn.owned.acquire(False) or self._missed(conn):
                self.give_back(conn)
        elif fd in self._listeners:
            self._listeners.arm(fd)
        elif fd in self.errands and not self.errands.arm(fd):
            self.errands.run(fd)  # rather now than never

    def mute(self, conn: Connection) -> None:
        """``conn``, owned, will be watched by another loop until it is parked: its events shall wake nobody here."""
        if conn.watched == EDGE:
            conn.watched = _NOTHING
            with contextlib.suppress(OSError):  # then threads wake in vain, and leave notes
                self._modify(conn.fd, _NOTHING)

    def close(self, conn: Connection) -> None:
        """Close a connection that the caller owns. Its lock stays taken: nobody can own it again."""
        if conn.phase == Phase.CLOSED:
            return
        self._connections.leave(conn)
        if self._listeners.held_back:
            self._listeners.let_in()
        if self._listeners.closed:
            self.notice()

    def named(self, conn: Connection) -> bool:
        """The PROXY protocol has named the client of ``conn``: it counts for that address now. False: the address has
        as many connections as it may, and the caller, its owner, is to close it."""
        return self._connections.named(conn)

    def _park_new(self, conn: Connection) -> None:
        self.park(conn, keep_deadline=True)

    def leaves(self, conn: Connection) -> bool:
        """Whether another child will serve the next request of ``conn``, so that it need not be closed."""
        return self.departure is not None and self.departure.wants(conn)

    # -- for the child's main thread -----------------------------------------------------------------------------

    def add_listener(self, sock: socket.socket) -> None:
        """Accept from ``sock``, which listens."""
        self._listeners.add(sock)

    def stop_accepting(self, *, take_backlog: bool) -> None:
        """Let go of the listeners. With ``take_backlog`` what waits in their backlogs is accepted and served first."""
        self.retiring = True
        for accepted in self._listeners.close(take_backlog=take_backlog):
            self._door.enter(*accepted)
        self.notice()

    def tend(self, now: float, expired: Callable[[Connection], None]) -> float:
        """Resume listeners, hand every expired connection (owned) to ``expired``; the time when to call again.

        A deadline that is set after this call is at least the shortest timeout away, so none is overslept. All
        connections are looked at no more often than ``Deadlines`` says, however often this is called.
        """
        deadlines = self._deadlines
        again = self._listeners.resume(now, self._door.has_room)
        if self._unarmed:
            again = min(again, self._unarmed.retry(now, lambda conn: self._give_back_or(expired, conn, now)))
        if now < deadlines.rest_until:
            return min(again, deadlines.rest_until)
        overdue, due = deadlines.look(self._connections.all(), now)
        for conn in overdue:
            os.sched_yield()  # seeing one off takes 50 us: who serves goes first
            if conn.owned.acquire(False):
                self._give_back_or(expired, conn, now)
        return min(again, due)

    def _give_back_or(self, expired: Callable[[Connection], None], conn: Connection, now: float) -> None:
        if self._deadlines.of(conn) > now or excused(conn):
            self.give_back(conn)
        else:
            expired(conn)

    def close_idle(self) -> None:
        """Close the connections that have waited ``SETTLED`` seconds for a request and have not begun to send one."""
        settled = monotonic() - SETTLED
        for conn in self.connections():
            if not is_idle(conn, settled) or not conn.owned.acquire(False):
                continue
            if is_idle(conn, settled) and not conn.inbox and not conn.has_data():
                conn.goodbye()
                self.close(conn)
            else:
                self.give_back(conn)

    def let_go(self, conn: Connection) -> None:
        """Close our descriptor of a connection (owned) that another process has now."""
        # The epoll would go on to report it: it knows open files, not descriptors, and this one stays open (epoll(7)).
        with contextlib.suppress(OSError):
            self._epoll.unregister(conn.fd)
        self.close(conn)

    def room(self) -> int:
        """How many connections more this child may hold."""
        return self._connections.room

    def adopt(
        self,
        fd: int,
        family: int,
        addresses: tuple[Address | None, Server | None, Server | None],
        phase: int,
        since: float,
        believed: bool | None = None,
    ) -> None:
        """Serve a connection that another child has accepted, and that has waited in ``phase`` since ``since``.

        addresses: its peer, where it was accepted, and the server that the PROXY protocol has named, if it has.
        """
        peer, local, server = addresses
        conn = self._connections.enter(family, fd, peer, local)
        conn.server = server or local
        conn.believed = believed
        conn.phase = phase
        conn.numbers[SINCE] = since
        self.park(conn, keep_deadline=True)

    def adopt_plain(self, sock: socket.socket) -> None:
        """Serve ``sock``, whose other end this process has itself, without TLS."""
        self.park(self._connections.enter(sock.family, sock.detach(), None, ("localhost", None), Connection))

    def give_back(self, conn: Connection) -> None:
        """Park a connection that was only looked at, as it was parked before; if it has something, that is reported."""
        # Always armed anew: an edge that was lost, or never came (a read stops at a byte that is out of band), would
        # leave it here for good, excused at each deadline because it has something.
        conn.rearm = True
        self.park(conn, keep_deadline=True, at_once=wants_at_once(conn))

    def connections(self) -> Iterable[Connection]:
        """The open connections at this moment; any of them may close at any time."""
        return self._connections.all()

    @property
    def deserted(self) -> bool:
        """Whether no connection is open, or stands between accept(2) and the table, once accepting has stopped."""
        return not self._door.entering and not self._connections

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    @property
    def pauses(self) -> int:
        """How often accepting was paused: for want of descriptors, or because ``max_connections`` are open."""
        return self._listeners.pauses

    @property
    def seen_off(self) -> int:
        """How many idle connections were closed because somebody else wanted to come in."""
        return self._longest_idle.closed

    def notice(self) -> None:
        """Make ``attention`` readable. Any thread."""
        os.eventfd_write(self.attention, 1)

    def fileno(self) -> int:
        """The epoll's descriptor: readable when ``get(0)`` would give something. For a worker's own event loop."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make every ``get``, now and later, return None at once. For the end of a child."""
        self.closed = True
        os.eventfd_write(self._wake, 1)

    def release(self) -> None:
        """Close the epoll and everything in it; no worker may be running any more."""
        for conn in self.connections():
            conn.owned.acquire(False)
            self.close(conn)
        for _ in self._listeners.close(take_backlog=False):
            pass
        self._epoll.close()
        os.close(self._wake)
        os.close(self.attention)
