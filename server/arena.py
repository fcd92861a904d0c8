"""One shared memory for the whole daemon: a memfd that the master makes, in which children write what they do.

Promises: a page that nobody has written costs nothing (the memory is sparse); each child maps its own region and
nothing else; what it wrote outlives it; its size is sealed (F_SEAL_SHRINK, fcntl(2)), as an application that truncates
it would otherwise end whoever has mapped it, by SIGBUS. Readers use pread(2), which does not fill the holes as a
mapping would.
Refuses to know what is written: ``slots`` writes, ``scoreboard`` reads.

Threads: ``allot``, ``release`` and ``write`` belong to the master's only thread; ``read`` is for any process and
thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

PAGE: Final = 4096
# Virtual, of which only what is used counts: room for a thousand children with 100 threads each.
SIZE: Final = 256 * 1024 * 1024
# The master's own facts come first (supervisor/board.py).
BOARD: Final = 1024 * 1024

# Of a region: one page for the child as a whole, then its table of waiting requests, then one slot for each thread.
HEADER: Final = PAGE
WAITERS: Final = 64
WAITER: Final = 128
SLOT: Final = 1280  # 20 cache lines of 64 bytes: no two threads write into the same
SLOTS_AT: Final = HEADER + WAITERS * WAITER


class Region(NamedTuple):
    """A child's part: where it begins, and how many threads it has room for."""

    offset: int
    slots: int

    @property
    def length(self) -> int:
        """In bytes; whole pages, so that it can be mapped alone."""
        return -(-(SLOTS_AT + self.slots * SLOT) // PAGE) * PAGE


class Papers(NamedTuple):
    """What a child is given to write on: descriptors of the arena, of the file for its last words and of the one for
    stacks that it is asked for, -1 for none, and its region."""

    memory: int = -1
    region: Region | None = None
    words: int = -1
    stacks: int = -1

    def descriptors(self) -> list[int]:
        """Those that are there."""
        return [fd for fd in (self.memory, self.words, self.stacks) if fd >= 0]


NO_PAPERS: Final = Papers()


class Arena:
    """See the module. ``fd`` is its only descriptor, not inheritable."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._taken: list[Region] = []  # in the order of their offsets
        self._clean = BOARD  # from here on nobody has written yet

    @classmethod
    def create(cls) -> Arena:
        """For the master. Raises OSError."""
        fd = os.memfd_create("serverd-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)  # a reader of another user cannot open it again to write
            os.ftruncate(fd, SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def open(cls, fd: int) -> Arena:
        """For a reader that was given the descriptor."""
        os.set_inheritable(fd, False)
        return cls(fd)

    @contextlib.contextmanager
    def for_a_reader(self) -> Iterator[int]:
        """A descriptor to give to somebody who only reads. Raises OSError."""
        try:
            fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # /proc is not mounted, or not for us
            fd = os.dup(self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def allot(self, slots: int) -> Region | None:
        """The first free room that is large enough, all zeros; None when there is none. Raises OSError."""
        start = BOARD
        for place, taken in enumerate([*self._taken, Region(SIZE, 0)]):
            region = Region(start, slots)
            if region.length <= taken.offset - start:
                end = start + region.length
                self.write(start, bytes(max(0, min(end, self._clean) - start)))
                self._clean = max(end, self._clean)
                self._taken.insert(place, region)
                return region
            start = taken.offset + taken.length
        return None

    def release(self, region: Region) -> None:
        """Nobody writes there any more, and what was written has been read."""
        self._taken.remove(region)

    def read(self, offset: int, length: int) -> bytes:
        """What stands there. Raises OSError."""
        return os.pread(self.fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Raises OSError."""
        os.pwrite(self.fd, data, offset)

    def close(self) -> None:
        """Close the descriptor; mappings stay."""
        os.close(self.fd)
