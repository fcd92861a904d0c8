"""The listening sockets: bound once by the master, kept across reloads, shared by all children of all generations.

Promises: `open` is all or nothing, and says everything that is wrong at once, one line for each address with
what to do; a socket whose address stays the same is never closed, so that no connection is refused during a
reload; at the end only the files that are ours are removed. How one socket is made is binding.py.

A socket may have been open before this process began: as an `Heirloom`, from the master whose place this one takes
(upgrade.py) or from systemd's store of descriptors (fd_store.py). An address that has one takes it and binds nothing.
The file of a unix socket belongs to one process at a time: `lend` gives it away, `own` takes it.

Owned by the master's only thread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..config import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from .binding import Access, Inode, Listener, ListenError, adopt, bind_tcp, bind_unix, remove

__all__ = ["Access", "Heirloom", "Inherited", "ListenError", "Listener", "Listeners"]

# sd_listen_fds(3): passed descriptors begin here.
_LISTEN_FDS_START: Final = 3


@dataclass(frozen=True, slots=True)
class Heirloom:
    """An open listening socket from before: the address that it was made for, as text, its descriptor, and for a unix
    socket the file that was made for it. `use`: whose it is, as two may have asked for the same address (port 0)."""

    address: str
    fd: int
    inode: Inode | None = None
    use: str = ""

    @property
    def path(self) -> Path | None:
        """The file of a unix socket."""
        return Path(self.address.removeprefix("unix:")) if self.inode is not None else None

    def close(self, *, leave_file: bool = False) -> None:
        """Nobody wants it: close it, and take its file away."""
        os.close(self.fd)
        if not leave_file:
            remove(self.path, self.inode)


@dataclass(slots=True)
class Inherited:
    """The sockets that systemd passed to this process: (descriptor, name), each to be taken once."""

    sockets: list[tuple[int, str]] = field(default_factory=list)

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], pid: int) -> Inherited:
        """Read LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, and remove them: they are meant for nobody below us."""
        given = {key: environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES", "PIDFDID")}
        if given["PID"] != str(pid) or not given["FDS"].isdigit():
            return cls()
        names = given["FDNAMES"].split(":") if given["FDNAMES"] else []
        found: list[tuple[int, str]] = []
        for position in range(int(given["FDS"])):
            fd = _LISTEN_FDS_START + position
            os.set_inheritable(fd, False)
            found.append((fd, names[position] if position < len(names) else "unknown"))
        return cls(found)


class Listeners:
    """The sockets that are open, by the address in the configuration that asked for them.

    `heirlooms` are taken by the addresses that they were made for, out of this list, which others may share; their
    files are somebody else's until `own`. `use` tells those for the application from others.
    """

    def __init__(self, inherited: Inherited, heirlooms: list[Heirloom] | None = None, use: str = "") -> None:
        self._use = use
        self._inherited = inherited
        self._heirlooms = [] if heirlooms is None else heirlooms
        self._open: dict[ListenAddress, tuple[Listener, ...]] = {}
        self._lent: set[str] = set()
        self._left: list[Listener] = []  # closed while their files were somebody else's
        self.stored: set[str] = set()  # addresses whose sockets outlive us: `close` leaves their files

    def open(self, addresses: Iterable[ListenAddress], backlog: int, access: Access) -> list[Listener]:
        """Open what is not open yet, and set the backlog of all; the new ones are returned.

        Raises ListenError, and then everything is as it was before.
        """
        opened: dict[ListenAddress, tuple[Listener, ...]] = {}
        problems: list[str] = []
        passing = True
        for address in dict.fromkeys(addresses):
            if address in self._open:
                for listener in self._open[address]:
                    listener.sock.listen(backlog)
                continue
            try:
                opened[address] = self._open_one(address, backlog, access)
            except ListenError as error:
                problems.extend(error.problems)
                passing = passing and error.passing
        if problems:
            for address, found in opened.items():
                self._close(address, found)
            raise ListenError(problems, passing=passing)
        self._open.update(opened)
        return _flat(opened)

    def beside(self, use: str = "") -> Listeners:
        """Others, which take from the same sockets of before."""
        return Listeners(self._inherited, self._heirlooms, use)

    def sockets(self, addresses: Iterable[ListenAddress]) -> tuple[socket.socket, ...]:
        """The sockets for `addresses`, which are open."""
        return tuple(
            listener.sock for address in dict.fromkeys(addresses) for listener in self._open[address]
        )

    def all(self) -> list[Listener]:
        """Those that are open."""
        return _flat(self._open)

    def unused(self) -> list[int]:
        """The descriptors from before that no address has asked for yet; they are kept for a reload."""
        return [fd for fd, _ in self._inherited.sockets] + [heirloom.fd for heirloom in self._heirlooms]

    def keep_only(self, addresses: Iterable[ListenAddress]) -> list[str]:
        """Close all others (the master's copies: children that hold one serve on); where those were listening."""
        wanted = set(addresses)
        closed = {address: found for address, found in self._open.items() if address not in wanted}
        self._open = {address: found for address, found in self._open.items() if address in wanted}
        names = [str(listener) for listener in _flat(closed)]
        for address, found in closed.items():
            self._close(address, found)
        return names

    def close(self) -> None:
        """Close all: what waits in the backlogs is still there for children that hold the sockets."""
        self._lent |= self.stored
        self.keep_only(())

    # What goes from one process to the next

    def heirlooms(self) -> list[Heirloom]:
        """What a successor needs to have the same sockets; those of systemd are in `passed`."""
        return [
            Heirloom(str(address), listener.sock.fileno(), listener.inode, self._use)
            for address, found in self._open.items()
            for listener in found
            if not isinstance(address, SystemdAddress)
        ]

    def passed(self) -> list[tuple[int, str]]:
        """What systemd has passed, as (descriptor, name), whether an address has asked for it or not."""
        used = [(listener.sock.fileno(), listener.name) for listener in self.all() if listener.name]
        return [*used, *self._inherited.sockets]

    def lend(self) -> None:
        """The files of unix sockets are somebody else's from now on: they stay when we close."""
        self._lent = set(map(str, self._open))

    def own(self) -> None:
        """The files are ours from now on; those of sockets that were closed before go."""
        self._lent.clear()
        for listener in self._left:
            remove(listener.path, listener.inode)
        self._left.clear()

    def _close(self, address: ListenAddress, found: Iterable[Listener]) -> None:
        lent = str(address) in self._lent
        for listener in found:
            listener.close(leave_file=lent)
        if lent and str(address) not in self.stored:
            self._left.extend(found)
        self._lent.discard(str(address))

    def _inherit(self, address: ListenAddress, backlog: int) -> tuple[Listener, ...]:
        """The sockets that were made for `address` before this process began; none if there are none."""
        wanted = (str(address), self._use)
        chosen = [heirloom for heirloom in self._heirlooms if (heirloom.address, heirloom.use) == wanted]
        if not chosen:
            return ()
        found = tuple(
            replace(adopt(item.fd, str(address), backlog), path=item.path, inode=item.inode)
            for item in chosen
        )
        for item in chosen:
            self._heirlooms.remove(item)
        self._lent.add(str(address))
        return found

    def _open_one(self, address: ListenAddress, backlog: int, access: Access) -> tuple[Listener, ...]:
        if inherited := self._inherit(address, backlog):
            return inherited
        match address:
            case TcpAddress():
                return (bind_tcp(address, backlog),)
            case UnixAddress():
                return (bind_unix(address, backlog, access),)
            case FdAddress(fd):
                return (adopt(fd, str(address), backlog),)
            case SystemdAddress(name):
                return self._systemd(name, str(address), backlog)

    def _systemd(self, name: str | None, text: str, backlog: int) -> tuple[Listener, ...]:
        chosen = [item for item in self._inherited.sockets if name is None or item[1] == name]
        if not chosen:
            there = ", ".join(sorted({known for _, known in self._inherited.sockets})) or "none"
            remedy = "start serverd from its .socket unit, or with systemd-socket-activate"
            raise ListenError(
                [f"listen: {text}: systemd has passed no such socket (passed: {there}); {remedy}"]
            )
        found = tuple(replace(adopt(fd, text, backlog), name=known) for fd, known in chosen)
        self._inherited.sockets = [item for item in self._inherited.sockets if item not in chosen]
        return found


def _flat(found: Mapping[ListenAddress, tuple[Listener, ...]]) -> list[Listener]:
    return [listener for group in found.values() for listener in group]
