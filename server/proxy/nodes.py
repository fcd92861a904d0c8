"""How proxies write down an address: as an element of X-Forwarded-For, and as a node of RFC 7239 section 6.

Promises: an address comes out as its 4 or 16 bytes, an IPv4-mapped one (RFC 4291 2.5.5.2) as the 4 bytes of the address
that it is. Refuses: names, zones, and leading zeros, which some read as octal. Pure functions of their arguments: any
thread may call them.
"""

from __future__ import annotations

import re
import socket
from typing import Final, NamedTuple

_MAPPED: Final = bytes(10) + b"\xff\xff"
# RFC 7239 6.2 and 6.3: an obfuscated identifier, which stands for an address or for a port.
_OBFUSCATED: Final = re.compile(r"_[A-Za-z0-9._-]+")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LARGEST_PORT: Final = 65535


class Node(NamedTuple):
    """Who sent something on: ``address`` is b"" where the proxy does not say, ``port`` 0 where it is not known."""

    address: bytes
    port: int


UNKNOWN: Final = Node(b"", 0)


def pack(text: str) -> bytes | None:
    """The bytes of an IP address, None for what is none."""
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        data = socket.inet_pton(socket.AF_INET6, text)
    except OSError, ValueError:  # the latter for a NUL
        return None
    return data[12:] if data.startswith(_MAPPED) else data


def spell(address: bytes) -> str:
    """An address in its canonical form (RFC 5952)."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def port_number(text: str) -> int | None:
    """A port, 0 to 65535, None for what is none."""
    if not _PORT.fullmatch(text) or not text.isascii():
        return None
    number = int(text)
    return number if number <= _LARGEST_PORT else None


def listed(text: str) -> Node | None:
    """An element of X-Forwarded-For, None for what is none.

    It has no grammar of its own. Most write the bare address; Azure's and Amazon's gateways add the port where they are
    told to, with brackets around IPv6; Squid writes "unknown" where it is told to hide the client.
    """
    if text.startswith("["):
        return _bracketed(text)
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return _with_port(pack(host), port)
    if text.lower() == "unknown":
        return UNKNOWN
    return _with_port(pack(text), None)


def node(text: str) -> Node | None:
    """The value of "for" or "by" (RFC 7239 6), None for what is none. IPv6 has to be in brackets there."""
    if text.startswith("["):
        return _bracketed(text)
    name, colon, port = text.partition(":")
    if name.lower() == "unknown" or _OBFUSCATED.fullmatch(name):
        return UNKNOWN if not colon or _is_port(port) else None
    return _with_port(pack(name), port if colon else None)


def _bracketed(text: str) -> Node | None:
    literal, bracket, rest = text[1:].partition("]")
    if not bracket or ":" not in literal or (rest and not rest.startswith(":")):
        return None
    return _with_port(pack(literal), rest[1:] if rest else None)


def _with_port(address: bytes | None, port: str | None) -> Node | None:
    if address is None:
        return None
    if port is None:
        return Node(address, 0)
    number = port_number(port)
    if number is None:
        return Node(address, 0) if _OBFUSCATED.fullmatch(port) else None
    return Node(address, number)


def _is_port(text: str) -> bool:
    return port_number(text) is not None or _OBFUSCATED.fullmatch(text) is not None
