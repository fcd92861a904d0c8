"""How one listening socket comes to be: bound to an address, or adopted from whoever had it before; and how it ends.

Promises: what cannot be had is one line that names the address and the remedy; a unix socket left behind by a dead
process is replaced, one that is alive is not touched, nor one of another user in a folder that everybody may write to;
its file has its mode from its first moment (umask), and is given to those who serve it as that file and no other, if
somebody has put one in its place; only the file that was made for a socket is removed with it.
Refuses SO_REUSEPORT: with one queue for all children, a child that goes takes no connection with it.

Called by the master's only thread. All sockets are non-blocking (O_NONBLOCK belongs to the open file, so for
children too) and close-on-exec.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config import TcpAddress, UnixAddress
from .privileges import Identity

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


type Inode = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """One socket. `inode` is (device, inode) of the file that was made for it, if one was; `name` what systemd calls
    it, if it was passed by systemd."""

    sock: socket.socket
    path: Path | None = None
    inode: Inode | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.url("http")

    def url(self, scheme: str) -> str:
        """What a person would type to reach it."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(name)}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{scheme}://{host}:{name[1]}"

    def close(self, *, leave_file: bool = False) -> None:
        """Close our copy, and take the file away if it is still the one that was made for this socket."""
        self.sock.close()
        if not leave_file:
            remove(self.path, self.inode)


def remove(path: Path | None, inode: Inode | None) -> None:
    """Take away the file at `path` if it is still the one that was made for a socket."""
    if path is None:
        return
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == inode:
            path.unlink()
    except OSError:
        pass  # gone, or in a folder that is no longer ours: nothing is left behind that we could remove


def bind_tcp(address: TcpAddress, backlog: int) -> Listener:
    """A new TCP socket, listening."""
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


def bind_unix(address: UnixAddress, backlog: int, access: Access) -> Listener:
    """A new unix socket, listening, with a file for those whom `access` names."""
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = None if access.umask is None else os.umask(access.umask)
    try:
        _clear_the_way(path, {os.geteuid(), access.uid})
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        made = _give_away(path, access)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        problem = f"listen: {address}{_unix_reason(path, error)}"
        raise ListenError([problem], passing=error.errno in _PASSING) from None
    finally:
        if before is not None:
            os.umask(before)
    return Listener(sock, path, made)


def _give_away(path: Path, access: Access) -> Inode:
    """Give the file of a socket that was just made to whom `access` names. Raises OSError.

    Who may write to its folder may have put another in its place since it was made, a hard link to a file of root's for
    instance: so the file is opened first, looked at, and changed by its descriptor.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        made = os.fstat(fd)
        if not stat.S_ISSOCK(made.st_mode) or made.st_uid != os.geteuid() or made.st_nlink != 1:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if access.uid != -1 or access.gid != -1:
            _chown(fd, access)
    finally:
        os.close(fd)
    return made.st_dev, made.st_ino


def _chown(fd: int, access: Access) -> None:
    try:
        os.chown(f"/proc/self/fd/{fd}", access.uid, access.gid)
    except (
        FileNotFoundError
    ):  # fchown(2) does not take such a descriptor, and by its path it may be another file
        raise OSError(errno.ENOSYS, "its owner can only be changed with /proc mounted") from None


def _clear_the_way(path: Path, ours: Collection[int]) -> None:
    """Remove a socket that nobody serves. Raises EADDRINUSE if somebody does, ENOTSOCK for any other file, and EEXIST
    for one that is not of `ours` in a folder where everybody may put things."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    if found.st_uid not in ours and path.parent.stat().st_mode & stat.S_IWOTH:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
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
        case errno.EEXIST:
            return ": a file of another user is in the way, in a folder that others may write to; choose another folder"
        case errno.ENOENT:
            return f": the folder {path.parent} does not exist; create it or choose another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f": {error.strerror}; this user must be able to write to {path.parent}"
        case _:
            return f": {error.strerror}"


def adopt(fd: int, text: str, backlog: int) -> Listener:
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
