"""Who is trusted to tell of clients: the addresses, networks and words of ``proxy.trusted``.

Promises: an IPv4 peer of an IPv6 socket (``::ffff:10.0.0.1``) matches IPv4 networks; ``*`` is every peer, and no
address that a peer only tells of: with it the client is whom the peer names last. Refuses: names, which would have to
be looked up.

One ``Trust`` belongs to one thread, as it remembers peers.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network, ip_network
from typing import Final

from ..connection import Address
from .nodes import pack

# So many peers are remembered. Behind proxies there are a few.
_MOST: Final = 256


class Trust:
    """See the module."""

    __slots__ = ("_everybody", "_known", "_networks", "_unix")

    def __init__(self, entries: Iterable[str]) -> None:
        self._everybody = "*" in (entries := tuple(entries))
        self._unix = self._everybody or "unix" in entries
        # By the length of an address: (mask, network).
        self._networks: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        self._known: dict[str, bool] = {}
        for entry in entries:
            if entry not in ("*", "unix"):
                self._add(entry)

    def _add(self, entry: str) -> None:
        network = ip_network(entry, strict=False)
        base, mask = int(network.network_address), int(network.netmask)
        if isinstance(network, IPv6Network):
            if network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
                self._networks[4].append((mask & 0xFFFFFFFF, base & 0xFFFFFFFF))
            else:
                self._networks[16].append((mask, base))
        else:
            self._networks[4].append((mask, base))

    def peer(self, peer: Address | None) -> bool:
        """Whether the other end of a connection is trusted; None is the peer of a unix socket."""
        if peer is None:
            return self._unix
        host = peer[0]
        known = self._known.get(host)
        if known is None:
            address = pack(host.partition("%")[0])  # a link-local one has its zone with it
            known = self._everybody or (address is not None and self.hop(address))
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[host] = known
        return known

    def hop(self, address: bytes) -> bool:
        """Whether an address that somebody tells of is a trusted proxy's; b"", which nobody knows, is not."""
        number = int.from_bytes(address)
        return any(number & mask == base for mask, base in self._networks.get(len(address), ()))


def who(peer: Address | None) -> str:
    """The other end of a connection, for the log."""
    if peer is None:
        return "a unix socket"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
