"""The master's handle of the admin process: its listening sockets, its start, its questions, its end.

Promises: the admin process runs while the configuration that serves (or the first one, while it boots) has `admin`,
from before the application is imported until the last child is gone; one that dies is replaced after a back-off, and
its sockets stay open meanwhile; children never hold its sockets; whatever it sends, the master goes on. Refuses to
know what it answers (server/admin).

Owned by the master's only thread.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from functools import partial

from ..config import ServerConfig
from ..server.admin.order import GO, PING, PONG, AdminOrder
from ..server.channel import NO_MEMORY
from ..server.scoreboard import Arena
from . import reports
from .listeners import Listeners
from .outside import admin_addresses
from .policy import backoff
from .privileges import Identity
from .roster import HEALTHY_SECONDS
from .spawn import PACKETS_A_TURN, Closable, Descriptor, Started, start_helper

logger = logging.getLogger("serverd.master")


class Admin:
    """The admin process as the master sees it.

    `listeners`: its sockets, which are open before `configure` asks for them. `arena`: the memory that it reads;
    without one there is nothing to see, and it never runs. `waits`: another master's process accepts from these
    sockets, until `begin`; ours is there by then.
    """

    def __init__(
        self, selector: selectors.BaseSelector, listeners: Listeners, arena: Arena | None, *, waits: bool
    ) -> None:
        self._selector = selector
        self._listeners = listeners
        self._arena = arena
        self._waits = waits
        self._over = False
        self._process: Started | None = None
        self._config: ServerConfig | None = None
        self._identity: Identity | None = None
        self._started_at = -math.inf
        self._failures = 0
        self._failed_at = -math.inf
        self._leaving: dict[
            int, int
        ] = {}  # process -> pidfd: those that were let go, and finish their answers

    def configure(self, config: ServerConfig, identity: Identity | None) -> None:
        """Be what `config` asks for from now on."""
        before, self._config = self._config, config
        changed = before is not None and (_wish(before), self._identity) != (_wish(config), identity)
        self._identity = identity
        if changed:
            self._let_go()
        self.keep()

    def keep(self) -> None:
        """Close the sockets of a configuration that does not serve, any more or after all."""
        assert self._config is not None
        for name in self._listeners.keep_only(admin_addresses(self._config)):
            logger.info("the admin plane is no longer on %s", name)

    def begin(self) -> None:
        """Nobody else accepts from these sockets any more."""
        self._waits = False
        if self._process is not None:
            try:
                self._process.channel.sock.send(GO, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass  # it has died: the next one does not wait

    def end(self) -> None:
        """Somebody else does from now on."""
        self._over = True
        self._let_go()

    def due(self) -> float:
        """When a process has to be started, in monotonic seconds; infinite when there is nothing to do."""
        wanted = self._config is not None and self._config.admin is not None and self._arena is not None
        if self._process is not None or self._over or not wanted:
            return math.inf
        return self._failed_at + backoff(self._failures)

    def start(self, belongings: Iterable[Closable], now: float) -> None:
        """Start it. `belongings`: what it must not hold, but for its own sockets. What the machine refuses now is due
        again after a back-off."""
        assert self._config is not None
        assert self._config.admin is not None
        assert self._arena is not None
        sockets = self._listeners.sockets(admin_addresses(self._config))
        others = [thing for thing in belongings if thing not in sockets]
        try:
            with self._arena.for_a_reader() as arena:
                order = self._order(tuple(sock.fileno() for sock in sockets), arena)
                code = f"from serverd.server.admin.process import main; main({{fd}}, {order.as_json()!r})"
                self._process = start_helper(code, self._identity, others, (*order.sockets, arena))
        except OSError as error:
            self._count_failure(now)
            wait = backoff(self._failures)
            logger.warning("cannot start the admin process (%s); next try in %.1f s", error.strerror, wait)
            return
        self._started_at = now
        self._selector.register(self._process.channel, selectors.EVENT_READ, self._hear)
        self._selector.register(self._process.pidfd, selectors.EVENT_READ, self._on_exit)

    def _order(self, sockets: tuple[int, ...], arena: int) -> AdminOrder:
        assert self._config is not None
        assert self._config.admin is not None
        return AdminOrder(
            sockets=sockets,
            arena=arena,
            ready_capacity=self._config.admin.ready_capacity,
            title=self._config.process.title or "serverd",
            level=self._config.logging.level,
            format=self._config.logging.format,
            waits=self._waits,
        )

    def close(self) -> None:
        """The daemon ends: so does whatever is here, at once."""
        self._over = True
        self._let_go()
        for pid in list(self._leaving):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._left(pid)

    def bury(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody else; True if it was ours."""
        if pid in self._leaving:
            self._left(pid)
            return True
        if self._process is None or self._process.pid != pid:
            return False
        self._died(self._process, status)
        return True

    def pids(self) -> set[int]:
        """The processes that are waited for here."""
        return {*self._leaving, *(() if self._process is None else (self._process.pid,))}

    def belongings(self) -> Iterator[Closable]:
        """All that is none of a child's business: its listening sockets, our end of its channel, its pidfd."""
        yield from (listener.sock for listener in self._listeners.all())
        if self._process is not None:
            yield self._process.channel
            yield Descriptor(self._process.pidfd)
        yield from map(Descriptor, self._leaving.values())

    def _let_go(self) -> None:
        """The end of its channel tells it to finish its answers and to exit."""
        if self._process is None:
            return
        pid, pidfd = self._process.pid, self._process.pidfd
        self._forget(self._process)
        self._leaving[pid] = pidfd
        self._selector.register(pidfd, selectors.EVENT_READ, partial(self._on_leave, pid))

    def _on_leave(self, pid: int) -> None:
        if os.waitpid(pid, os.WNOHANG)[0]:
            self._left(pid)

    def _left(self, pid: int) -> None:
        pidfd = self._leaving.pop(pid)
        self._selector.unregister(pidfd)
        os.close(pidfd)

    def _hear(self) -> None:
        """Answer its questions: that the loop comes to this is the answer."""
        assert self._process is not None
        sock = self._process.channel.sock
        try:
            for _ in range(PACKETS_A_TURN):
                packet = sock.recv(64)
                if not packet:
                    break
                if packet == PING:
                    sock.send(PONG, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                return
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in NO_MEMORY:  # it is still there, and asks again
                raise
        self._selector.unregister(self._process.channel)  # its end: its exit follows, and counts

    def _on_exit(self) -> None:
        assert self._process is not None
        pid, status = os.waitpid(self._process.pid, os.WNOHANG)
        if pid:
            self._died(self._process, status)

    def _died(self, process: Started, status: int) -> None:
        self._forget(process)
        os.close(process.pidfd)
        self._count_failure(time.monotonic())
        how, wait = reports.how_it_ended(status), backoff(self._failures)
        logger.error("the admin process (pid %d) %s; it starts again in %.1f s", process.pid, how, wait)

    def _forget(self, process: Started) -> None:
        for thing in (process.channel, process.pidfd):
            if self._selector.get_map().get(thing) is not None:
                self._selector.unregister(thing)
        process.channel.close()
        self._process = None

    def _count_failure(self, now: float) -> None:
        healthy = now - self._started_at >= HEALTHY_SECONDS
        self._failures = 1 if healthy else self._failures + 1
        self._failed_at = now


def _wish(config: ServerConfig) -> tuple[object, ...]:
    """All of `config` that the process was told."""
    return config.admin, config.process.title, config.logging.level, config.logging.format
