"""Idle connections go from a child that leaves to children that stay, their descriptors by SCM_RIGHTS (unix(7)).

Promises: a connection is served by one side or by the other, never by both and never by none. Nothing is read from it
on the way, so what its client sends meanwhile waits in the kernel and travels along. What is refused, or not answered
for within ``PATIENCE`` stays where it was, and whoever did not answer cannot take it any more. Refuses: TLS, whose keys
cannot travel, and half a request; both are served where they are, until they are idle or their answer says
``Connection: close``.

The master makes one pair of sockets (SOCK_SEQPACKET) for each two children, and never sees a connection itself. A batch
is one packet, and has one answer: which of it were refused. The side that leaves keeps its descriptors until then.

Threads: both classes belong to the main thread of their child, but for what any thread asks of a ``Departure``:
``wants`` and ``takes``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from time import monotonic
from typing import Final

from .channel import receive
from .conn_queue import ConnectionQueue
from .connection import SINCE, Address, Connection, Server
from .phases import Phase

logger = logging.getLogger("serverd.worker")

# The kernel takes 253 descriptors in a packet (SCM_MAX_FD); a connection cannot be served while it is on its way, which
# for fewer is shorter.
BATCH: Final = 128
# How long a batch waits for its answer, in seconds: the main thread that answers never waits for the application. One
# that does not answer in this time is stopped, or has a machine that is far too busy.
PATIENCE: Final = 1.0
# A batch of the longest unix paths (108 bytes, each perhaps escaped) and addresses.
_LARGEST: Final = 128 * 1024
_WILDCARDS: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Passenger:
    """What travels beside a descriptor. ``since``: when it became idle, or was accepted, in monotonic seconds, which
    all processes of a machine share."""

    phase: int
    since: float
    family: int
    peer: Address | None
    local: Server | None
    server: Server | None = None  # which the PROXY protocol has named, as it has the client in `peer`
    believed: bool | None = None

    @classmethod
    def of(cls, conn: Connection) -> Passenger:
        """The description of ``conn``, which the caller owns."""
        named = None if conn.server == conn.local else conn.server
        return cls(
            conn.phase, conn.numbers[SINCE], int(conn.family), conn.peer, conn.local, named, conn.believed
        )


def encode(batch: Iterable[Passenger]) -> bytes:
    """The packet for ``batch``."""
    rows = [
        (one.phase, one.since, one.family, one.peer, one.local, one.server, one.believed) for one in batch
    ]
    return json.dumps({"connections": rows}).encode()


def decode(packet: bytes) -> list[Passenger]:
    """The batch in ``packet``. Raises ValueError when it is none."""
    try:
        rows = json.loads(packet)["connections"]
        return [_passenger(*row) for row in rows]
    except (KeyError, TypeError) as exc:
        raise ValueError(f"not a batch of connections: {packet[:80]!r}") from exc


def _passenger(
    phase: int,
    since: float,
    family: int,
    peer: list[object] | None,
    local: list[object] | None,
    server: list[object] | None = None,
    believed: bool | None = None,
) -> Passenger:
    if phase not in (Phase.IDLE, Phase.HEAD):
        raise ValueError(f"a connection in phase {phase} cannot change hands")
    return Passenger(
        phase,
        float(since),
        int(family),
        None if peer is None else _address(*peer),
        None if local is None else _server(*local),
        None if server is None else _server(*server),
        None if believed is None else believed is True,
    )


def _address(host: object, port: object) -> Address:
    return str(host), int(str(port))


def _server(host: object, port: object) -> Server:
    return str(host), None if port is None else int(str(port))


def listened_on(local: Server | None, listening: Iterable[Server]) -> bool:
    """Whether a connection to ``local`` could have come by one of the addresses ``listening``. Pure."""
    if local is None:
        return False
    host, port = local
    wildcard = _WILDCARDS[":" in host]
    return any(
        theirs == port and (name == host or (port is not None and name == wildcard))
        for name, theirs in listening
    )


def names(sockets: Iterable[socket.socket]) -> list[Server]:
    """Where ``sockets`` listen, as ``Connection.local`` has it."""
    return [
        (str(sock.getsockname()), None) if sock.family == socket.AF_UNIX else sock.getsockname()[:2]
        for sock in sockets
    ]


class Departure:
    """The side that leaves. True as long as there is somebody to hand connections to."""

    def __init__(self, queue: ConnectionQueue, heirs: Sequence[socket.socket]) -> None:
        self._queue = queue
        self._heirs = list(heirs)
        self._turn = 0
        # Those that became idle since the last look, still owned: appended by any thread, taken by this one.
        self._idle: deque[Connection] = deque()
        self._open = False
        self.gone = 0  # connections handed over
        for heir in heirs:
            heir.setblocking(False)

    def __bool__(self) -> bool:
        return bool(self._heirs)

    # -- for any thread ------------------------------------------------------------------------------------------

    def wants(self, conn: Connection) -> bool:
        """Whether ``conn`` shall leave as soon as it is idle, so that its response need not say that it closes."""
        return self._open and not conn.secure and not conn.stays

    def takes(self, conn: Connection) -> bool:
        """Take over ``conn`` from its owner, who is about to park it, if it is idle: no thread here reads on then."""
        if conn.phase != Phase.IDLE or conn.inbox or not self.wants(conn):
            return False
        self._idle.append(conn)
        self._queue.notice()
        return True

    # -- for the main thread -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on nothing is parked that may leave: it waits for ``hand_over``, to be called after each notice."""
        if self._heirs:
            self._open = True
            self._queue.departure = self

    def hand_over(self) -> None:
        """Everything that may leave at this moment; what nobody takes is parked as it was."""
        for batch in batched(self._leavers(), BATCH, strict=False):
            if self._heirs:
                self._deal(batch)
            else:
                self._give_back(batch)

    def end(self) -> None:
        """No more of that: what is left is served here."""
        self._open = False
        for heir in self._heirs:
            heir.close()
        self._heirs.clear()
        while self._idle:
            self._queue.give_back(self._idle.popleft())

    def _leavers(self) -> Iterator[Connection]:
        """What may leave at this moment, each owned by the caller: no byte of a request was read, none waits to be
        sent."""
        while self._idle:
            yield self._idle.popleft()
        if not self._open:
            return
        for conn in self._queue.connections():
            if self._is_idle(conn) and conn.owned.acquire(False):
                if self._is_idle(conn):
                    yield conn
                else:
                    self._queue.give_back(conn)

    def _is_idle(self, conn: Connection) -> bool:
        return conn.phase in (Phase.IDLE, Phase.HEAD) and not conn.inbox and self.wants(conn)

    def _deal(self, batch: Sequence[Connection]) -> None:
        """An equal share for each, all on their way before the first answer is awaited."""
        heirs = self._heirs[self._turn :] + self._heirs[: self._turn]
        self._turn = (self._turn + len(batch)) % len(heirs)
        under_way: list[tuple[socket.socket, Sequence[Connection]]] = []
        for number, heir in enumerate(heirs):
            share = batch[number :: len(heirs)]
            if share and self._send(heir, share):
                under_way.append((heir, share))
            elif share:
                self._drop(heir)
                self._give_back(share)
        deadline = monotonic() + PATIENCE
        for heir, share in under_way:
            self._settle(heir, share, _answer(heir, deadline))
        self._turn %= len(self._heirs) or 1

    def _send(self, heir: socket.socket, share: Sequence[Connection]) -> bool:
        try:
            descriptors = [conn.fd for conn in share]
            socket.send_fds(heir, [encode(map(Passenger.of, share))], descriptors, socket.MSG_NOSIGNAL)
        except OSError as exc:  # it is gone; or too many descriptors are in flight (ETOOMANYREFS)
            logger.debug("cannot hand connections over: %s", exc)
            return False
        return True

    def _settle(
        self, heir: socket.socket, share: Sequence[Connection], answer: tuple[set[int], bool] | None
    ) -> None:
        if answer is None:
            logger.debug("%d idle connections were not taken by another child", len(share))
            self._drop(heir)
            self._give_back(share)
            return
        refused, full = answer
        if full:
            self._drop(heir)
        for number, conn in enumerate(share):
            if number not in refused:
                self._queue.let_go(conn)
                self.gone += 1
            else:
                conn.stays = not full  # another may have room
                self._queue.give_back(conn)

    def _drop(self, heir: socket.socket) -> None:
        self._heirs.remove(heir)
        self._open = bool(self._heirs)
        heir.close()

    def _give_back(self, connections: Iterable[Connection]) -> None:
        for conn in connections:
            self._queue.give_back(conn)


def _answer(heir: socket.socket, deadline: float) -> tuple[set[int], bool] | None:
    """(the numbers that were refused, whether there was no room); None if there is no answer, nor ever will be."""
    poll = select.poll()
    poll.register(heir, select.POLLIN)
    if not poll.poll(max(0.0, deadline - monotonic()) * 1000):
        # In one step for the kernel: either its answer is here already, or it cannot be sent any more, and then the
        # other side takes nothing.
        with contextlib.suppress(OSError):
            heir.shutdown(socket.SHUT_RD)
    try:
        packet = json.loads(heir.recv(_LARGEST))
        return {int(number) for number in packet["refused"]}, bool(packet["full"])
    except OSError, ValueError, KeyError, TypeError:
        return None


class Arrivals:
    """The side that stays: ``listening`` is where this child listens, ``poll`` what its main thread sleeps in."""

    def __init__(self, queue: ConnectionQueue, listening: Sequence[Server], poll: select.poll) -> None:
        self._queue = queue
        self._listening = listening
        self._poll = poll
        self._sources: dict[int, socket.socket] = {}

    def __contains__(self, fd: int) -> bool:
        return fd in self._sources

    def expect(self, fd: int) -> None:
        """Take what comes by the socket ``fd``, which is ours from now on."""
        source = socket.socket(fileno=fd)
        source.setblocking(False)
        self._sources[fd] = source
        self._poll.register(fd, select.POLLIN)

    def hear(self, fd: int) -> None:
        """The source ``fd`` has something: a batch, or its end."""
        source = self._sources[fd]
        packet, descriptors = b"", list[int]()
        try:
            packet, descriptors = receive(source, _LARGEST, BATCH)
        except BlockingIOError:
            return
        except OSError as exc:
            logger.debug("no batch of connections can be had: %s", exc)
        if packet:
            try:
                batch = decode(packet)
                taken = self._answer(source, descriptors, batch)
            except (
                OSError
            ) as exc:  # it has died, or waits no more, or hears nothing: what it had stays with it
                logger.debug("a batch of connections is refused: %s", exc)
            except (ValueError, RecursionError) as exc:
                logger.error("a batch of connections is refused: %s", exc)
            else:
                self._take(descriptors, batch, taken)
                return
        for descriptor in descriptors:
            os.close(descriptor)
        self._forget(fd)

    def close(self) -> None:
        """Take nothing more."""
        for fd in list(self._sources):
            self._forget(fd)

    def _answer(self, source: socket.socket, descriptors: list[int], batch: list[Passenger]) -> set[int]:
        """Say what is taken; the numbers of that. Raises ValueError and OSError, and then nothing is."""
        if len(descriptors) != len(batch):  # our limit of open files cuts what does not fit
            raise ValueError(f"{len(batch)} connections came with {len(descriptors)} descriptors")
        ours = [number for number, one in enumerate(batch) if listened_on(one.local, self._listening)]
        taken = set(ours[: self._queue.room()])
        refused = [number for number in range(len(batch)) if number not in taken]
        source.send(
            json.dumps({"refused": refused, "full": len(taken) < len(ours)}).encode(), socket.MSG_NOSIGNAL
        )
        return taken

    def _take(self, descriptors: list[int], batch: list[Passenger], taken: set[int]) -> None:
        """Serve those that are ``taken``: the other side has let go of them."""
        for number, (descriptor, one) in enumerate(zip(descriptors, batch, strict=True)):
            if number not in taken:
                os.close(descriptor)
                continue
            try:
                addresses = (one.peer, one.local, one.server)
                self._queue.adopt(descriptor, one.family, addresses, one.phase, one.since, one.believed)
            except OSError as exc:  # of this one; the rest are served
                logger.warning("a connection that another child has handed over is lost: %s", exc)

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._sources.pop(fd).close()
