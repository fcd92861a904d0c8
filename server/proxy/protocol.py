"""The header of the PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): bytes in, addresses out.

Promises: ``parse`` refuses as soon as the signature, the version or the size are wrong, and never looks behind the
header. Refuses: anything but streams; numbers with leading zeros, which some read as octal; a header larger than
``MOST``; what the specification has reserved; a checksum (PP2_TYPE_CRC32C) that is wrong. Pure functions; any thread.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from ..connection import Address, Server
from .nodes import pack, spell

# The signature, a head of 16 bytes, the largest addresses (216) and 1.8 KiB of extensions: load balancers send a few
# hundred bytes of them.
MOST: Final = 2048
_V1: Final = b"PROXY "
_V1_MOST: Final = 107  # with its CRLF (section 2.1)
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_HEAD: Final = struct.Struct(">12sBBH")
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_CRC32C: Final = 0x03
_LOCAL, _PROXY = 0x20, 0x21  # the version, and the command
_UNSPEC, _INET, _INET6, _UNIX = 0x00, 0x11, 0x21, 0x31  # the family, and STREAM
_SIZES: Final = {_INET: 12, _INET6: 36, _UNIX: 216}


class BadHeader(Exception):
    """There is no header of the PROXY protocol; the message says why, without any byte of it."""


class Told(NamedTuple):
    """A header of ``size`` bytes. ``known``: whether it names the client, which came by a unix socket if ``client`` is
    None; else it is the connection's own peer. ``server``: None where it says nothing else than the connection."""

    size: int
    known: bool = False
    client: Address | None = None
    server: Server | None = None


def parse(data: bytes) -> Told | None:
    """The header at the beginning of ``data``; None if more bytes are needed. Raises BadHeader."""
    if data.startswith(_V1):
        return _version_1(data)
    if data.startswith(_V2):
        return _version_2(data)
    if not (_V1.startswith(data) or _V2.startswith(data)):
        raise BadHeader("what it sent does not begin with a PROXY header")
    return None


def _version_1(data: bytes) -> Told | None:
    end = data.find(b"\r\n", 0, _V1_MOST)
    if end < 0:
        if len(data) >= _V1_MOST:
            raise BadHeader("the header of version 1 is longer than 107 bytes")
        if b"\n" in data:
            raise BadHeader("the header of version 1 does not end in CRLF")
        return None
    line, size = data[:end], end + 2
    if b"\n" in line:  # as it is seen when the line comes in pieces
        raise BadHeader("the header of version 1 does not end in CRLF")
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return Told(size)
    if words[1] not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise BadHeader("the header of version 1 is not: PROXY, TCP4 or TCP6, two addresses, two ports")
    six = words[1] == b"TCP6"
    return Told(size, True, _address(words[2], words[4], six), _address(words[3], words[5], six))


def _address(host: bytes, port: bytes, six: bool) -> Address:
    address = pack(host.decode("latin-1"))
    if address is None or (b":" in host) != six:
        raise BadHeader("an address in the header is none of its protocol")
    if not _PORT.fullmatch(port) or int(port) > 0xFFFF:
        raise BadHeader("a port in the header is no number from 0 to 65535")
    return spell(address), int(port)


def _version_2(data: bytes) -> Told | None:
    if len(data) < _HEAD.size:
        return None
    _, command, family, length = _HEAD.unpack_from(data)
    size = _HEAD.size + length
    if command not in (_LOCAL, _PROXY):
        raise BadHeader("the version or the command of the header is unknown")
    if size > MOST:
        raise BadHeader(f"the header is larger than {MOST} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL or family == _UNSPEC:
        return Told(size)
    addresses = _SIZES.get(family)
    if addresses is None:
        raise BadHeader("the header is about something else than a stream of IPv4, IPv6 or unix sockets")
    if length < addresses:
        raise BadHeader("the header is too short for its addresses")
    _check_extensions(data[:size], _HEAD.size + addresses)
    body = data[_HEAD.size : size]
    if family == _UNIX:
        return Told(size, True)
    width = 4 if family == _INET else 16
    ports = struct.unpack_from(">HH", body, 2 * width)
    client, server = body[:width], body[width : 2 * width]
    return Told(size, True, (_spelled(client), ports[0]), (_spelled(server), ports[1]))


def _spelled(address: bytes) -> str:
    """As ``pack`` has it: an IPv4-mapped address is an IPv4 address."""
    return spell(pack(spell(address)) or address)


def _check_extensions(header: bytes, at: int) -> None:
    """The type-length-value vectors (section 2.2) end where the header ends, and the checksum is right. BadHeader."""
    while at < len(header):
        if at + 3 > len(header):
            raise BadHeader("an extension of the header is cut off")
        kind, length = struct.unpack_from(">BH", header, at)
        value = at + 3
        at = value + length
        if at > len(header):
            raise BadHeader("an extension of the header is longer than the header")
        if kind == _CRC32C:
            said = header[value:at]
            plain = header[:value] + bytes(length) + header[at:]
            if length != 4 or crc32c(plain) != int.from_bytes(said):
                raise BadHeader("the header's checksum is wrong")


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720 appendix B.4 (Castagnoli). A header of 60 bytes takes 4 us."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = (row >> 1) ^ (0x82F63B78 if row & 1 else 0)  # noqa: PLW2901 - a shift register
        rows.append(row)
    return tuple(rows)


_TABLE: Final = _table()
