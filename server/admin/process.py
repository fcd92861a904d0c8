"""The life of the admin process: serve ``AdminApp`` with the engine of the children, until the master is gone.

Promises: nothing wakes this process while nobody asks; it holds its own listening sockets, the shared memory and its
channel, and nothing else of the master's; it ends when the master does, or lets it go, with its answers finished, and
by no signal but SIGKILL, so that probes hear of a stop. Refuses: the application, access logs, and requests with
bodies of any size worth the name.

Threads: ``main`` runs in the main thread, which counts the deadlines of connections and listens to the channel; the
requests are served in the event loop's thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import setproctitle

from ...config import LimitsConfig, LoggingConfig, ProxyConfig, ServerConfig, TimeoutsConfig, WorkersConfig
from ...config.logs import setup_logging
from ..async_pool import AsyncPool
from ..connection import Address, Connection, Server
from ..deadlines import SETTLED
from ..farewell import Refuser
from ..listening import patient_poll, rest_after
from ..loop_queue import LoopQueue
from ..scoreboard import Arena
from ..slots import nowhere
from .app import AdminApp
from .observer import Observer
from .order import GO, PING, PONG, AdminOrder
from .pulse import Pulse
from .reading import Reader

# Probes and scrapes come every 5 to 60 s: most of them find their connection still open.
_TIMEOUTS: Final = TimeoutsConfig(head=5.0, body=5.0, keep_alive=90.0, write=10.0)
_LIMITS: Final = LimitsConfig(connections=512, body=64 * 1024, head=16 * 1024)
_WORKERS: Final = WorkersConfig(mode="async", loop="asyncio")
# Nobody's word about a client or a host counts here: `AdminApp` looks at Host itself.
_NOBODY: Final = ProxyConfig(trusted=())
_LONGEST: Final = 86400.0
# For answers that are under way when the master lets this process go; none of them takes a tenth of it.
_LEAVING: Final = 0.5


def main(fd: int, text: str) -> NoReturn:
    """The whole life: ``fd`` is our end of the channel, ``text`` the order. Exits with 0 when the master is gone."""
    order = AdminOrder.from_json(text)
    setproctitle.setproctitle(f"{order.title}: admin")
    # A terminal sends these to all: the master decides. SIGTERM to the whole group is the begin of a stop, which
    # probes are to hear of: the end of the channel is what ends this process.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1,
                   signal.SIGUSR2, signal.SIGWINCH):  # fmt: skip
        signal.signal(number, signal.SIG_IGN)
    logging: Any = {"level": order.level, "format": order.format}
    setup_logging(LoggingConfig(**logging, access=False), process="admin", stream=sys.stderr)
    plane = _Plane(_inherited(fd), list(map(_inherited, order.sockets)), order.ready_capacity, order.arena)
    if not order.waits:
        plane.listen()
    plane.serve()
    os._exit(0)  # not held up by a stream that is just being written


class _Plane:
    """The parts. Belongs to the main thread."""

    def __init__(
        self, channel: socket.socket, sockets: list[socket.socket], capacity: float, arena: int
    ) -> None:
        self._channel = channel
        self._sockets = sockets  # that are not listened to yet
        self._queue = LoopQueue(
            _TIMEOUTS, max_connections=_LIMITS.connections, make_connection=self._connection
        )
        self._queue.alone = True
        self._refuser = Refuser(self._queue, None, nowhere())
        self._pool = AsyncPool(_WORKERS.loop)
        self._pool.start()
        self._pulse = self._pool.call(_made(lambda: Pulse(self._ask))).result()
        reader = Reader(Arena.open(arena))
        observer = self._pool.call(_made(lambda: Observer(reader))).result()
        app: Any = AdminApp(observer, self._pulse.silence, limit=capacity)
        config = ServerConfig(
            app="serverd:admin", timeouts=_TIMEOUTS, limits=_LIMITS, workers=_WORKERS, proxy=_NOBODY
        )
        self._pool.serve(config, app, self._queue)

    def listen(self) -> None:
        """Accept from now on."""
        while self._sockets:
            self._queue.add_listener(self._sockets.pop())

    def serve(self) -> None:
        """Until the master is gone."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._queue.attention, select.POLLIN)
        asleep = False  # nothing was open for so long that nothing has to be looked at
        while True:
            now = time.monotonic()
            due = self._queue.tend(now, self._refuser.expired)
            events = patient_poll(poll, None if asleep else min(max(0.0, due - now), _LONGEST) * 1000 + 1)
            asleep = not events and not self._queue.open
            for fd, _ in events:
                if fd == self._queue.attention:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                elif not self._hear():
                    self._leave()
                    return

    def _leave(self) -> None:
        """Finish the answers that are under way. What waits in the backlog is for whoever has the socket next."""
        deadline = time.monotonic() + _LEAVING
        # In the loop's thread, or it could be about to accept one more, which `open` does not count yet.
        stopped = self._pool.call(_made(lambda: self._queue.stop_accepting(take_backlog=False)))
        with contextlib.suppress(TimeoutError):
            stopped.result(_LEAVING)
        self._pool.drain()
        while not self._queue.deserted and time.monotonic() < deadline:
            self._queue.close_idle()
            time.sleep(SETTLED / 5)

    def _connection(
        self, number: int, family: int, fd: int, peer: Address | None, local: Server | None, now: float
    ) -> Connection:
        """The first of several connections (in the loop's thread) wakes the main thread, which counts their
        deadlines."""
        if not self._queue.open:
            self._queue.notice()
        return Connection(number, family, fd, peer, local, now)

    def _ask(self) -> None:
        # One that does not get through is to a master that is gone, or hangs: then there is no answer.
        with contextlib.suppress(OSError):
            self._channel.send(PING, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _hear(self) -> bool:
        """Read what the master has said. False at its end."""
        try:
            packet = self._channel.recv(64)
        except ConnectionResetError:
            packet = b""
        except OSError as exc:  # it is still there
            rest_after(exc, "recv")
            return True
        if packet == PONG:
            self._pool.call(_made(self._pulse.heard))
        if packet == GO:
            self.listen()
        return packet != b""


async def _made[T](make: Callable[[], T]) -> T:
    """What ``make`` gives in the loop's thread."""
    return make()


def _inherited(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock
