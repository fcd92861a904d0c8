"""How many connections each client address has open in this child, and whether it may have one more.

Promises: exact, however many threads accept at the same time: a place is taken before a connection is served, and
given back when it is closed; the table has one entry for each address that has a connection open, and none else. An
address of IPv6 counts as its /64, the smallest network that a site is given (RFC 6177 2): a client there may take any
address of it. Unix sockets and proxies (``exempt``) are not counted, as theirs are the connections of many clients.
Refuses: to close anything (``door``), and to count requests.

Threads: all of it is for any thread; one lock, which is held for a look-up and an addition when a connection is
accepted and when it is closed, and never for a request.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..config import ServerConfig
from .connection import Address
from .proxy.nodes import pack
from .proxy.trust import Trust
from .seldom import SeldomLog

# (address, whether the PROXY protocol has named it): whether it is a proxy's.
Exempt = Callable[[Address, bool], bool]

_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2: ::ffff:192.0.2.1 is 192.0.2.1
_PREFIX: Final = 8  # bytes, of a /64


class PerAddress:
    """See the module. ``most``: for each address. ``noted`` is called with the number of refused connections when it
    has grown. Both functions are called under the lock, by one thread at a time. ``named``: whether the connections of
    other children have the addresses that the PROXY protocol has named."""

    def __init__(
        self,
        most: int,
        exempt: Exempt | None = None,
        noted: Callable[[int], None] | None = None,
        *,
        named: bool = False,
    ) -> None:
        self._most = most
        self._named = named
        self._exempt = exempt
        self._noted = noted
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._refused = 0
        self._say = SeldomLog(logging.getLogger("serverd.worker"))

    @classmethod
    def of(cls, config: ServerConfig, noted: Callable[[int], None]) -> PerAddress | None:
        """What ``config`` asks for; None if that is nothing."""
        most = config.limits.connections_per_address
        if not most:
            return None
        return cls(most, _proxies(config.proxy.trusted), noted, named=config.proxy.protocol)

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, peer: Address | None, *, named: bool = False, always: bool = False) -> str | None:
        """Take a place for a connection of ``peer``: what to call ``leave`` with, "" if it is not counted, None if the
        address has as many as it may. ``named``: a proxy has said so (PROXY protocol). ``always``: it is served
        already, and counts beyond the limit too."""
        if peer is None:
            return ""
        with self._lock:
            if self._exempt is not None and self._exempt(peer, named or (always and self._named)):
                return ""
            key = client_key(peer[0])
            number = self._open.get(key, 0)
            if number < self._most or always:
                self._open[key] = number + 1
                return key
            self._refused += 1
            if self._noted is not None:
                self._noted(self._refused)
        self._say(
            "%s has %d open connections, and limits.connections_per_address allows no more: one more was closed",
            key,
            number,
        )
        return None

    def leave(self, key: str) -> None:
        """Give the place back."""
        if not key:
            return
        with self._lock:
            number = self._open[key] - 1
            if number:
                self._open[key] = number
            else:
                del self._open[key]


def _proxies(trusted: Sequence[str]) -> Exempt:
    """Which addresses are proxies'. ``*`` is about peers, and not about whom they name."""
    trust = Trust(trusted)

    def exempt(address: Address, named: bool) -> bool:
        if not named:
            return trust.peer(address)
        packed = pack(address[0])
        return packed is not None and trust.hop(packed)

    return exempt


def client_key(host: str) -> str:
    """What counts as one client: an address of IPv4, or the /64 of one of IPv6. ``host`` as accept(2) gives it."""
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError, ValueError:  # what only a broken sibling would hand over
        return host
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:_PREFIX] + bytes(16 - _PREFIX)) + "/64"
