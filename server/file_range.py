"""A part of an open file on its way to a client.

Promises: the descriptor is the range's own, so that the application may close, move or delete its file at once; the
range gives exactly the bytes that it announced, or raises FileShrank; ``close`` may be called more than once.
Refuses, with an OSError that names the file: what is no regular file (nobody knows how long a pipe is, and reading one
would hold the thread), and what may not be opened.

What is sent is what the file holds when the kernel reads it: one that is written to meanwhile goes out mixed, as it
would from any server that uses sendfile(2).

A range belongs to the thread that owns the connection it is sent over.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import Any, Final, Self

logger = logging.getLogger("serverd.error")

# A file of this size or less is read and sent together with the head: one system call for both took 8.9 µs for 16 KiB,
# two of them 8.7, and 13.0 against 9.7 for 64 KiB (loopback).
SMALL: Final = 16 * 1024
# One call of sendfile sends no more than this, even to a client that reads as fast as it goes: unbounded it was seen to
# go on for 6 MB, 6.6 ms, while others waited for the thread. Sending 64 MB in steps took no longer than in one go.
STEP: Final = 512 * 1024


class FileShrank(OSError):
    """The file became shorter while it was sent: what was announced cannot be sent, and the connection must be cut."""


class FileRange:
    """``count`` bytes at ``offset`` of the file that ``fd`` is open on; see the module.

    The descriptor is copied, and ``fd`` stays the caller's. name: for messages. Raises OSError when ``fd`` is not open,
    or is no regular file. Ranges that end behind the file's end raise FileShrank once they are sent.
    """

    __slots__ = ("count", "fd", "name", "offset")

    def __init__(self, fd: int, offset: int, count: int, name: str = "") -> None:
        if offset < 0 or count < 0:
            raise ValueError(f"offset {offset} and count {count} of a file to send must not be negative")
        self.offset = offset  # of the next byte
        self.count = count  # bytes still to be sent
        self.name = name or f"descriptor {fd}"
        _regular_size(fd, self.name)
        self.fd = os.dup(fd)

    @classmethod
    def whole(cls, path: str | os.PathLike[str]) -> Self:
        """All of the file at ``path``. Raises OSError: it is not there, may not be read, or is no regular file."""
        # O_NONBLOCK: opening a FIFO would wait for its writer, which may never come. It means nothing to regular files.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = _regular_size(fd, os.fspath(path))
        except BaseException:
            os.close(fd)
            raise
        whole = cls.__new__(cls)
        whole.fd, whole.offset, whole.count, whole.name = fd, 0, size, os.fspath(path)
        return whole

    @classmethod
    def part(cls, file: Any, offset: int | None, count: int | None) -> Self:
        """Of an open file (an object with ``fileno``, or a descriptor), as far as its end.

        offset: None for the file's own position, which then moves behind the range as if it had been read. count: at
        most so many bytes; None for all. Raises OSError, and TypeError or ValueError for what is no file.
        """
        fd = _descriptor(file)
        name = str(getattr(file, "name", "")) or f"descriptor {fd}"
        size = _regular_size(fd, name)
        start = _position(file) if offset is None else offset
        left = max(0, size - start)
        part = cls(fd, start, left if count is None else min(count, left), name)
        if offset is None:
            _set_position(file, start + part.count)
        return part

    def send_to(self, sock: int) -> int:
        """Let the kernel send the next ``STEP`` bytes or less; how many it took.

        Raises BlockingIOError when the socket has no room, OSError when the client is gone, FileShrank.
        """
        sent = os.sendfile(sock, self.fd, self.offset, min(self.count, STEP))
        if not sent:
            raise self._shrank()
        self.offset += sent
        self.count -= sent
        return sent

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, or all that are left. Raises FileShrank, OSError."""
        data = os.pread(self.fd, min(self.count, size), self.offset)
        if not data and self.count:
            raise self._shrank()
        self.offset += len(data)
        self.count -= len(data)
        return data

    def take(self) -> bytes:
        """All of it, for a small one; closes it. Raises FileShrank, OSError."""
        try:
            data = self.read(self.count)
            while self.count:
                data += self.read(self.count)
        finally:
            self.close()
        return data

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _shrank(self) -> FileShrank:
        text = (
            f"{self.name}: {self.count} bytes fewer than were announced; it became shorter while it was sent"
        )
        logger.warning("%s. The connection was cut; replace such files by renaming", text)
        return FileShrank(errno.EIO, text)


def _descriptor(file: Any) -> int:
    if isinstance(file, int):
        return file
    if not hasattr(file, "fileno"):
        raise TypeError(f"only an open file can be sent, and {file!r} has no fileno()")
    return int(file.fileno())


def _regular_size(fd: int, name: str) -> int:
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory cannot be sent", name)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "only regular files can be sent", name)
    return found.st_size


def _position(file: Any) -> int:
    """Where a reader of ``file`` would go on; a buffered file has read ahead of that."""
    return os.lseek(file, 0, os.SEEK_CUR) if isinstance(file, int) else int(file.tell())


def _set_position(file: Any, offset: int) -> None:
    if isinstance(file, int):
        os.lseek(file, offset, os.SEEK_SET)
    else:
        file.seek(offset)
