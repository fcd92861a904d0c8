"""The listening sockets: bound once by the master, kept across reloads, shared by all children of all generations.

Promises: `open` is all or nothing, and says everything that is wrong at once, one line for each address with
what to do; a socket whose address stays the same is never closed, so that no connection is refused during a
reload; a unix socket left behind by a dead process is replaced, one that is alive is not touched, and at the
end only the file that is still ours is removed. Refuses SO_REUSEPORT: with one queue for all children, a child
that goes takes no connection with it.

Owned by the master's only thread. All sockets are non-blocking (O_NONBLOCK belongs to the open file, so for
children too) and close-on-exec.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..config import FdAddress, ListenAddress, SystemdAddress, TcpAddress, UnixAddress
from .privileges import Identity

# sd_listen_fds(3): passed descriptors begin here.
_LISTEN_FDS_START: Final = 3
# A server that is just being replaced, and an address whose interface is not up yet.
_PASSING: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


class ListenError(Exception):
    """Sockets that cannot be had; `problems` has one line for each, naming the address and the remedy.

    `passing`: another try may succeed with nothing changed here, as whoever has the address may end.
    """

    def __init__(self, problems: Sequence[str], *, passing: bool = False) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect to unix sockets that are made here; None leaves it to the process that binds."""

    umask: int | None = None
    uid: int = -1
    gid: int = -1

    @classmethod
    def of(cls, umask: int | None, identity: Identity | None) -> Access:
        """Sockets belong to those who serve them."""
        return cls(umask) if identity is None else cls(umask, identity.uid, identity.gid)


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """One socket. `inode` is (device, inode) of the file that was made for it, if one was."""

    sock: socket.socket
    path: Path | None = None
    inode: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.url("http")

    def url(self, scheme: str) -> str:
        """What a person would type to reach it."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(name)}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{scheme}://{host}:{name[1]}"

    def close(self) -> None:
        """Close our copy, and take the file away if it is still the one that was made here."""
        self.sock.close()
        if self.path is None:
            return
        try:
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.inode:
                self.path.unlink()
        except OSError:
            pass  # gone, or in a folder that is no longer ours: nothing is left behind that we could remove


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
    """The sockets that are open, by the address in the configuration that asked for them."""

    def __init__(self, inherited: Inherited) -> None:
        self._inherited = inherited
        self._open: dict[ListenAddress, tuple[Listener, ...]] = {}

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
            for listener in _flat(opened):
                listener.close()
            raise ListenError(problems, passing=passing)
        self._open.update(opened)
        return _flat(opened)

    def sockets(self, addresses: Iterable[ListenAddress]) -> tuple[socket.socket, ...]:
        """The sockets for `addresses`, which are open."""
        return tuple(
            listener.sock for address in dict.fromkeys(addresses) for listener in self._open[address]
        )

    def all(self) -> list[Listener]:
        """Those that are open."""
        return _flat(self._open)

    def unused(self) -> list[int]:
        """The descriptors that systemd has passed and no address has asked for yet; they are kept for a reload."""
        return [fd for fd, _ in self._inherited.sockets]

    def keep_only(self, addresses: Iterable[ListenAddress]) -> list[str]:
        """Close all others (the master's copies: children that hold one serve on); where those were listening."""
        wanted = set(addresses)
        closed = _flat({address: found for address, found in self._open.items() if address not in wanted})
        self._open = {address: found for address, found in self._open.items() if address in wanted}
        names = [str(listener) for listener in closed]
        for listener in closed:
            listener.close()
        return names

    def close(self) -> None:
        """Close all: what waits in the backlogs is still there for children that hold the sockets."""
        self.keep_only(())

    def _open_one(self, address: ListenAddress, backlog: int, access: Access) -> tuple[Listener, ...]:
        match address:
            case TcpAddress():
                return (_tcp(address, backlog),)
            case UnixAddress():
                return (_unix(address, backlog, access),)
            case FdAddress(fd):
                return (_adopt(fd, str(address), backlog),)
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
        found = tuple(_adopt(fd, text, backlog) for fd, _ in chosen)
        self._inherited.sockets = [item for item in self._inherited.sockets if item not in chosen]
        return found


def _flat(found: Mapping[ListenAddress, tuple[Listener, ...]]) -> list[Listener]:
    return [listener for group in found.values() for listener in group]


def _tcp(address: TcpAddress, backlog: int) -> Listener:
    try:
        # A name that has several addresses is bound at the first of them; all of them are listed with two entries.
        info = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        why = f"the name does not resolve ({error.strerror}); write an IP address"
        raise ListenError([f"listen: {address}: {why}"]) from None
    family, kind, proto, _, where = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # or a restart would wait for TIME_WAIT to pass
        if family == socket.AF_INET6:
            sock.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1
            )  # so that [::]:80 and 0.0.0.0:80 go together
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        problem = f"listen: {address}{_tcp_reason(address, error)}"
        raise ListenError([problem], passing=error.errno in _PASSING) from None
    return Listener(sock)


def _tcp_reason(address: TcpAddress, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            find = f"ss -ltnp 'sport = :{address.port}'"
            return f" is in use by another process; stop it ({find} shows it) or choose another address"
        case errno.EACCES | errno.EPERM:
            return (
                ": permission denied; ports below 1024 need root, CAP_NET_BIND_SERVICE, or `listen: systemd`"
            )
        case errno.EADDRNOTAVAIL:
            return " is no address of this machine; `ip address` lists them, 0.0.0.0 and [::] stand for all"
        case errno.EAFNOSUPPORT:
            return ": this machine has no IPv6; choose an IPv4 address"
        case _:
            return f": {error.strerror}"


def _unix(address: UnixAddress, backlog: int, access: Access) -> Listener:
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = None if access.umask is None else os.umask(access.umask)
    try:
        _clear_the_way(path)
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        made = path.lstat()
        if access.uid != -1 or access.gid != -1:
            os.chown(path, access.uid, access.gid, follow_symlinks=False)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        problem = f"listen: {address}{_unix_reason(path, error)}"
        raise ListenError([problem], passing=error.errno in _PASSING) from None
    finally:
        if before is not None:
            os.umask(before)
    return Listener(sock, path, (made.st_dev, made.st_ino))


def _clear_the_way(path: Path) -> None:
    """Remove a socket that nobody serves. Raises EADDRINUSE if somebody does, ENOTSOCK for any other file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _unix_reason(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return " is in use by another process; stop it or choose another path"
        case errno.ENOTSOCK:
            return ": a file that is not a socket is in the way; remove it or choose another path"
        case errno.ENOENT:
            return f": the folder {path.parent} does not exist; create it or choose another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f": {error.strerror}; this user must be able to write to {path.parent}"
        case _:
            return f": {error.strerror}"


def _adopt(fd: int, text: str, backlog: int) -> Listener:
    """The inherited socket `fd`, listening."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is not a socket"
        raise ListenError(
            [f"listen: {text}: descriptor {fd} {what}; whoever starts serverd must pass it"]
        ) from None
    if sock.type != socket.SOCK_STREAM or sock.family not in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    ):
        sock.detach()
        raise ListenError(
            [f"listen: {text}: descriptor {fd} is not a TCP or unix stream socket (ListenStream=)"]
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    try:
        sock.listen(backlog)
    except OSError as error:
        sock.detach()
        why = f"descriptor {fd} cannot listen ({error.strerror}); whoever passes it must bind it first"
        raise ListenError([f"listen: {text}: {why}"]) from None
    return Listener(sock)
