"""What the master has from the outside world: listening sockets, the pidfile, systemd's ear.

Promises: taken at the start all together or not at all, from where they are: from the master whose place this one
takes, from systemd, or anew; given back at the end, or left to the master that takes this one's place. At any moment
one master removes files, writes its number and speaks to systemd, never two. Refuses to decide when (upgrade.py).

Owned by the master's only thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..config import ListenAddress, ServerConfig
from . import fd_store
from .listeners import Access, Heirloom, Inherited, Listener, ListenError, Listeners
from .notify import Notifier
from .pidfile import Pidfile, PidfileError
from .privileges import Identity
from .spawn import Closable, Descriptor
from .succession import Estate, Predecessor

# Probes and scrapes come one at a time.
_ADMIN_BACKLOG: Final = 128


def admin_addresses(config: ServerConfig) -> tuple[ListenAddress, ...]:
    """Where the admin plane listens, if there is one."""
    return () if config.admin is None else (config.admin.listen,)


class Outside:
    """See the module. Made by `take`. `admin`: the sockets of the admin plane. `heirlooms`: sockets of the old master
    that nobody has asked for yet."""

    def __init__(self, listeners: Listeners, notifier: Notifier, heirlooms: list[Heirloom]) -> None:
        self.listeners = listeners
        self.admin = listeners.beside("admin")
        self.notifier = notifier
        self.heirlooms = heirlooms
        self.pidfile: Pidfile | None = None
        self._old_pidfile: Pidfile | None = None  # of the old master, if it is another one

    @classmethod
    def take(
        cls, config: ServerConfig, identity: Identity | None, predecessor: Predecessor | None
    ) -> Outside:
        """Everything that `config` asks for. Raises ListenError or PidfileError, with everything given back."""
        here = cls._found(config) if predecessor is None else cls._inherited(predecessor.estate)
        try:
            access = Access.of(config.process.umask, identity)
            here.listeners.open(config.listen, config.limits.backlog, access)
            here.open_admin(config, access)
            here._take_pidfile(config.process.pidfile)
        except ListenError, PidfileError:
            here.close()
            raise
        if predecessor is None:
            here.own()
        return here

    @classmethod
    def _found(cls, config: ServerConfig) -> Outside:
        """As the first master here: what systemd has passed and stored."""
        notifier = Notifier.take_from(os.environ, os.getpid())
        inherited = Inherited.take_from(os.environ, os.getpid())
        heirlooms = fd_store.take_back(inherited, map(str, config.listen), notifier)
        return cls(Listeners(inherited, heirlooms), notifier, heirlooms)

    @classmethod
    def _inherited(cls, estate: Estate) -> Outside:
        """As the one that follows another."""
        heirlooms = list(estate.heirlooms)
        notifier = Notifier(estate.manager, muted=True)
        notifier.stored.update(estate.stored)
        here = cls(Listeners(Inherited(list(estate.passed)), heirlooms), notifier, heirlooms)
        if estate.pidfile is not None:
            path, fd = estate.pidfile
            here._old_pidfile = Pidfile(Path(path), fd, lent=True)
        return here

    def open_admin(self, config: ServerConfig, access: Access) -> list[Listener]:
        """Where the admin plane of `config` listens, if it is not open yet. Raises ListenError."""
        try:
            return self.admin.open(admin_addresses(config), _ADMIN_BACKLOG, access)
        except ListenError as error:
            problems = [f"admin.{problem}" for problem in error.problems]
            raise ListenError(problems, passing=error.passing) from None

    def own(self) -> None:
        """The files of the sockets are ours."""
        self.listeners.own()
        self.admin.own()

    def _take_pidfile(self, path: Path | None) -> None:
        if self._old_pidfile is not None and self._old_pidfile.path == path:
            self.pidfile, self._old_pidfile = self._old_pidfile, None
        elif path is not None:
            self.pidfile = Pidfile.take(path, os.getpid())

    def estate(self, generation: int, more: list[Heirloom]) -> Estate:
        """What there is to leave to a new master; `more` are sockets that are kept elsewhere."""
        return Estate(
            os.getpid(),
            generation,
            (*self.listeners.heirlooms(), *self.admin.heirlooms(), *more),
            tuple(dict.fromkeys((*self.listeners.passed(), *self.admin.passed()))),
            None if self.pidfile is None else (os.fspath(self.pidfile.path), self.pidfile.fd),
            self.notifier.manager,
            tuple(sorted(self.notifier.stored)),
        )

    def hand_over(self, pid: int) -> None:
        """All of it is process `pid`'s from now on, which has it open too."""
        self.notifier.hand_over(pid)
        for listeners in (self.listeners, self.admin):
            listeners.lend()
            listeners.close()
        if self.pidfile is not None:
            self.pidfile.lend()
            self.pidfile.remove()
            self.pidfile = None

    def take_over(self, line: str | None) -> None:
        """All of it is ours from now on; `line` is for systemd, None if we stop already."""
        self.own()
        for heirloom in self.heirlooms:
            heirloom.close()
        self.heirlooms.clear()
        if self.pidfile is not None:
            self.pidfile.own(os.getpid())
        if self._old_pidfile is not None:
            self._old_pidfile.own(os.getpid())
            self._old_pidfile.remove()
            self._old_pidfile = None
        self.notifier.unmute()
        if line is not None:
            self.notifier.ready(line)
            fd_store.keep(self.listeners, self.notifier)

    def belongings(self) -> Iterator[Closable]:
        """Its descriptors, but for the listening sockets that are open."""
        yield from map(Descriptor, self.listeners.unused())
        for pidfile in (self.pidfile, self._old_pidfile):
            if pidfile is not None and pidfile.fd >= 0:
                yield Descriptor(pidfile.fd)
        if self.notifier.sock is not None:
            yield self.notifier.sock

    def close(self) -> None:
        """Give all of it back."""
        self.listeners.close()
        self.admin.close()
        for pidfile in (self.pidfile, self._old_pidfile):
            if pidfile is not None:
                pidfile.remove()
        self.notifier.close()
