"""The pidfile: the master's process id in a file that is locked as long as the master lives.

Promises: a file left behind by a dead master is taken over, whatever number stands in it (the lock decides, and
the kernel gives it back when its owner dies, however it dies); a file held by a live master is refused; at the
end the file is removed if it is still ours. Refuses to trust the number in the file for anything but the
message; and to write into anything but a file of its own: not through a symbolic link, nor into one that has another
name, belongs to another user, or holds something else than a number. In a folder that others may write to, root would
else overwrite what they have put there for it, or leave it to them what number stands there.

A master that takes the place of another (upgrade.py) inherits the open file and with it the lock, which is never
free on the way; the number in the file changes when the new one serves.

Owned by the master's only thread. The lock belongs to the open file (flock(2)), so children must close their copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Self

# O_NONBLOCK: nobody has to wait for a FIFO's other side.
_UNKNOWN: Final = "unknown"
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class PidfileError(Exception):
    """The pidfile cannot be had; one line that says why and what to do."""


class Pidfile:
    """A pidfile that is ours. Made by `take`."""

    def __init__(self, path: Path, fd: int, *, lent: bool = False) -> None:
        self.path = path
        self.fd = fd
        self._lent = lent

    @classmethod
    def take(cls, path: Path, pid: int) -> Self:
        """Lock `path` and write `pid` into it. Raises PidfileError."""
        while True:
            fd = _open(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _first_line(fd)
                os.close(fd)
                if error.errno != errno.EWOULDBLOCK:
                    raise PidfileError(f"process.pidfile: cannot lock {path}: {error.strerror}") from None
                raise PidfileError(
                    f"process.pidfile: {path} is held by a running serverd (pid {holder});"
                    " stop that one, or give this one another pidfile"
                ) from None
            if _is_still(path, fd):  # else its owner removed it between our open and our lock: take a new one
                break
            os.close(fd)
        _write(fd, pid)
        return cls(path, fd)

    def lend(self) -> None:
        """The file is somebody else's, who holds the same lock."""
        self._lent = True

    def own(self, pid: int) -> None:
        """The file is ours, and `pid` stands in it from now on."""
        self._lent = False
        if self.fd >= 0:
            _write(self.fd, pid)

    def remove(self) -> None:
        """Remove the file if it is still ours, then give the lock back."""
        if self.fd < 0:
            return
        try:
            if not self._lent and _is_still(self.path, self.fd):
                self.path.unlink()
        except OSError:
            pass  # a read-only folder by now: the lock is what counts
        os.close(self.fd)
        self.fd = -1


def _open(path: Path) -> int:
    """`path`, made anew or left behind by another master. Raises PidfileError."""
    while True:
        try:
            return os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            pass
        except OSError as error:
            raise PidfileError(f"process.pidfile: cannot write {path}: {_reason(path, error)}") from None
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:  # its owner has removed it this moment
            continue
        except OSError as error:
            raise PidfileError(f"process.pidfile: cannot write {path}: {_reason(path, error)}") from None
        if problem := _not_ours(fd):
            os.close(fd)
            raise PidfileError(
                f"process.pidfile: {path} {problem}, so it is not written to; remove it, or name another"
            )
        return fd


def _not_ours(fd: int) -> str:
    """Why this is no pidfile that a master of this user has left behind; empty if it may be one."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_nlink > 1:
        return "is a file that has another name elsewhere (a hard link)"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_size and _first_line(fd) == _UNKNOWN:
        return "holds something else than the number of a process"
    return ""


def _write(fd: int, pid: int) -> None:
    number = f"{pid}\n".encode("ascii")
    os.pwrite(fd, number, 0)  # in this order: a reader never finds the file empty
    os.ftruncate(fd, len(number))


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


def _first_line(fd: int) -> str:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").partition("\n")[0].strip()
    return text if text.isascii() and text.isdecimal() else _UNKNOWN


def _reason(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f"the folder {path.parent} does not exist; create it"
        case errno.ELOOP:
            return "it is a symbolic link; remove it"
        case _:
            return f"{error.strerror}"
