"""What a master leaves to the one that takes its place, and how the new one takes it.

Promises: everything that is open and shared (listening sockets, the pidfile and its lock) arrives as descriptors that
stay open throughout; until the old master has said that it lets go, nothing is taken from it: no file of its is
removed, no number in its pidfile changed, and systemd hears nothing from here. If the old master ends without a
word, the new one is the only one, and takes over when it serves. Who stops the new one while the old one still
drains waits for both, as the end of the main process is the end of a service. Refuses an inheritance that was meant
for another process, or that is of another kind than this version knows.

The two talk over one SOCK_SEQPACKET pair, a JSON object in each packet: down the `Estate` first and at the end
`{"say": "yours"}`; up `{"say": "serving", "line": ...}` or `{"say": "failed", "reason": ...}`. The old side of it is
upgrade.py.

Owned by the new master's only thread.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from ..server.channel import NO_MEMORY
from .listeners import Heirloom
from .notify import Manager
from .spawn import Closable, Descriptor

logger = logging.getLogger("serverd.master")

# Names the descriptor and the process that made it: `7:1234`.
VARIABLE: Final = "SERVERD_UPGRADE"
_VERSION: Final = 1
LARGEST_PACKET: Final = 200 * 1024  # see server/channel.py
_TO_TELL: Final = 2000  # characters of a reason


class SuccessionError(Exception):
    """This process cannot take the place of the one that started it; one line."""


@dataclass(frozen=True, slots=True)
class Estate:
    """What a master has to leave. Descriptors are open in both processes, under the same numbers.

    `generation`: the number of the last generation; `passed`: sockets of systemd with their names; `pidfile`: its
    path, and its descriptor, which holds the lock; `stored`: names in systemd's store of descriptors.
    """

    pid: int
    generation: int = 0
    heirlooms: tuple[Heirloom, ...] = ()
    passed: tuple[tuple[int, str], ...] = ()
    pidfile: tuple[str, int] | None = None
    manager: Manager = field(default_factory=Manager)
    stored: tuple[str, ...] = ()

    def descriptors(self) -> list[int]:
        """All that the successor needs to have open."""
        fds = [*(item.fd for item in self.heirlooms), *(fd for fd, _ in self.passed)]
        return [*fds, self.pidfile[1]] if self.pidfile is not None else fds

    def packet(self) -> bytes:
        """For the channel."""
        return json.dumps({"v": _VERSION, **asdict(self)}).encode("ascii")

    @classmethod
    def read(cls, packet: bytes) -> Self:
        """The estate in `packet`; unknown fields are ignored. Raises SuccessionError."""
        try:
            raw = json.loads(packet)
            if raw["v"] != _VERSION:
                raise SuccessionError(f"upgrade: the old master speaks version {raw['v']}, and we {_VERSION}")
            heirlooms = tuple(map(_heirloom, raw["heirlooms"]))
            passed = tuple((int(fd), str(name)) for fd, name in raw["passed"])
            pidfile = None if raw["pidfile"] is None else (str(raw["pidfile"][0]), int(raw["pidfile"][1]))
            told = raw["manager"]
            manager = Manager(str(told["address"]), float(told["watchdog"]), int(told["store"]))
            stored = tuple(map(str, raw["stored"]))
            return cls(int(raw["pid"]), int(raw["generation"]), heirlooms, passed, pidfile, manager, stored)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SuccessionError(
                f"upgrade: what the old master has left cannot be read: {error!r}"
            ) from None


def _heirloom(raw: dict[str, Any]) -> Heirloom:
    inode = raw["inode"]
    found = None if inode is None else (int(inode[0]), int(inode[1]))
    return Heirloom(str(raw["address"]), int(raw["fd"]), found, str(raw.get("use", "")))


class Predecessor:
    """The old master, as the new one sees it. Made by `take_from`."""

    def __init__(self, sock: socket.socket, estate: Estate) -> None:
        self.estate = estate
        self._sock: socket.socket | None = sock
        self._selector: selectors.BaseSelector | None = None
        self._take_over: Callable[[str], None] = lambda line: None
        self._gone: Callable[[], None] = lambda: None
        self._pidfd = -1
        self._line: str | None = None  # what we have said when we began to serve
        self._taken = False

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], parent: int) -> Predecessor | None:
        """The master that has started this one to take its place, None if there is none. Removes the variable.

        Raises SuccessionError.
        """
        text = environ.pop(VARIABLE, "")
        fd, _, pid = text.partition(":")
        if not (fd.isdigit() and pid == str(parent)):
            return None  # meant for somebody else: a process in between has passed its environment on
        try:
            sock = socket.socket(fileno=int(fd))
            sock.set_inheritable(False)
            sock.setblocking(False)
            packet = sock.recv(LARGEST_PACKET)
        except OSError as error:
            raise SuccessionError(f"upgrade: descriptor {fd} of {VARIABLE}: {error.strerror}") from None
        predecessor = cls(sock, Estate(int(pid)))
        try:
            predecessor.estate = Estate.read(packet)
            for number in predecessor.estate.descriptors():
                os.set_inheritable(number, False)
        except SuccessionError as error:
            predecessor.failed(str(error))
            predecessor.close()
            raise
        except OSError as error:
            reason = f"upgrade: a descriptor of the old master is not open here: {error.strerror}"
            predecessor.failed(reason)
            predecessor.close()
            raise SuccessionError(reason) from None
        return predecessor

    @property
    def lives(self) -> bool:
        """Whether it has not exited yet."""
        return self._pidfd >= 0

    def belongings(self) -> Iterator[Closable]:
        """Our end of the channel, and its pidfd."""
        if self._sock is not None:
            yield self._sock
        if self._pidfd >= 0:
            yield Descriptor(self._pidfd)

    def attach(
        self, selector: selectors.BaseSelector, take_over: Callable[[str], None], gone: Callable[[], None]
    ) -> None:
        """Hear it; `take_over` is called once, when everything that it had is ours, with what `decided` was told, and
        `gone` when it has exited."""
        self._selector = selector
        self._take_over = take_over
        self._gone = gone
        if self._sock is not None:
            selector.register(self._sock, selectors.EVENT_READ, self._hear)
        try:
            self._pidfd = os.pidfd_open(self.estate.pid)
        except OSError:  # it has exited this moment
            gone()
        else:
            selector.register(self._pidfd, selectors.EVENT_READ, self._on_exit)

    def decided(self, ok: bool, line: str) -> None:
        """The first generation serves, or cannot; a rollout.Outcome."""
        if not ok:
            self.failed(line)
            return
        self._line = line
        self._say({"say": "serving", "line": line})
        if self._sock is None:  # it has ended meanwhile
            self._take()

    def failed(self, reason: str) -> None:
        """It has to go on without us."""
        self._say({"say": "failed", "reason": reason[:_TO_TELL]})

    def close(self) -> None:
        """Say and hear nothing any more."""
        self._hang_up()
        self._forget()

    def _on_exit(self) -> None:
        self._forget()
        logger.debug("upgrade: the old master (pid %d) is gone", self.estate.pid)
        self._gone()

    def _forget(self) -> None:
        if self._pidfd >= 0:
            if self._selector is not None:
                self._selector.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _hang_up(self) -> None:
        if self._sock is None:
            return
        if self._selector is not None and self._selector.get_map().get(self._sock) is not None:
            self._selector.unregister(self._sock)
        self._sock.close()
        self._sock = None

    def _say(self, message: dict[str, str]) -> None:
        if self._sock is None:
            return
        try:
            self._sock.send(json.dumps(message).encode("ascii"), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it is gone: `_hear` finds its end

    def _hear(self) -> None:
        assert self._sock is not None
        try:
            packet = self._sock.recv(LARGEST_PACKET)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in NO_MEMORY:  # it is still there
                raise
            packet = b""
        if packet and packet != YOURS:
            logger.warning("upgrade: the old master has said %r, which means nothing here", packet[:80])
            return
        if not packet:
            logger.warning("upgrade: the old master (pid %d) has ended without a word", self.estate.pid)
        self._hang_up()
        if self._line is not None:
            self._take()

    def _take(self) -> None:
        if not self._taken and self._line is not None:
            self._taken = True
            self._take_over(self._line)


YOURS: Final = json.dumps({"say": "yours"}).encode("ascii")


def read_word(packet: bytes) -> tuple[str, str]:
    """What a new master has said: (`serving` or `failed`, its line). Raises ValueError for anything else."""
    raw = json.loads(packet)
    if isinstance(raw, dict):
        match raw.get("say"):
            case "serving":
                return "serving", str(raw.get("line", ""))
            case "failed":
                return "failed", str(raw.get("reason", ""))
    raise ValueError(f"not a word of a new master: {packet[:80]!r}")
