"""The header of the PROXY protocol as bytes: what is taken, what is refused, and how soon."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.server.proxy.protocol import MOST, BadHeader, Told, crc32c, parse

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FOUR = socket.inet_aton("1.2.3.4") + socket.inet_aton("5.6.7.8") + struct.pack(">HH", 4711, 443)
SIX = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(15) + b"\x01" + struct.pack(">HH", 1, 2)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:1.2.3.4") + bytes(15) + b"\x01" + struct.pack(">HH", 1, 2)
LOCAL, PROXY = 0x20, 0x21


def two(command: int, family: int, body: bytes, *, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">BH", kind, len(value)) + value


def checked(body: bytes) -> bytes:
    """A header with its checksum, in front of the other extensions."""
    plain = two(PROXY, 0x11, FOUR + tlv(3, bytes(4)) + body)
    return two(PROXY, 0x11, FOUR + tlv(3, crc32c(plain).to_bytes(4)) + body)


TAKEN = [
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 4711 443\r\n", ("1.2.3.4", 4711), ("5.6.7.8", 443)),
    (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", ("255.255.255.255", 65535), ("0.0.0.0", 0)),
    (b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", ("2001:db8::1", 1), ("::1", 2)),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", ("1.2.3.4", 1), ("::1", 2)),
    (b"PROXY TCP6 " + 2 * b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " + b"65535 65535\r\n",
     ("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535)),
    (two(PROXY, 0x11, FOUR), ("1.2.3.4", 4711), ("5.6.7.8", 443)),
    (two(PROXY, 0x21, SIX), ("2001:db8::1", 1), ("::1", 2)),
    (two(PROXY, 0x21, MAPPED), ("1.2.3.4", 1), ("::1", 2)),
    (two(PROXY, 0x31, bytes(216)), None, None),
    (two(PROXY, 0x11, FOUR + tlv(1, b"h2") + tlv(0x20, b"x" * 300) + tlv(4, b"")), ("1.2.3.4", 4711), ("5.6.7.8", 443)),
    (checked(b""), ("1.2.3.4", 4711), ("5.6.7.8", 443)),
    (checked(tlv(2, b"a.example")), ("1.2.3.4", 4711), ("5.6.7.8", 443)),
    (two(PROXY, 0x11, FOUR + tlv(4, bytes(MOST - 16 - 12 - 3))), ("1.2.3.4", 4711), ("5.6.7.8", 443)),
]  # fmt: skip


@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize(("data", "client", "server"), TAKEN)
def test_what_is_taken(
    data: bytes, client: tuple[str, int] | None, server: tuple[str, int] | None, rest: bytes
) -> None:
    for end in range(1, len(data)):
        assert parse(data[:end]) is None
    assert parse(data + rest) == Told(len(data), True, client, server)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n",
        two(LOCAL, 0, b""),
        two(LOCAL, 0x11, FOUR),
        two(LOCAL, 0xFF, b"whatever"),
        two(PROXY, 0, b""),
        two(PROXY, 0, b"whatever"),
    ],
)
def test_what_names_nobody(data: bytes) -> None:
    assert parse(data + b"GET /") == Told(len(data))


REFUSED = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"PROXX",
    b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b" PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\r\n\r\n\x00\r\nQUIX",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n\n",
    b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    b"PROXY TCP6 ::1%1 ::1 1 2\r\n",
    b"PROXY TCP6 [::1] ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1_0 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 \xb2 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r" + b" " * 80,
    b"PROXY UNKNOWN " + b"x" * (108 - 16) + b"\r\n",
    b"PROXY " + b"x" * 101,
    two(0x11, 0x11, FOUR),
    two(0x22, 0x11, FOUR),
    two(0x2F, 0x11, FOUR),
    two(PROXY, 0x12, FOUR),  # DGRAM
    two(PROXY, 0x10, FOUR),
    two(PROXY, 0x41, FOUR),
    two(PROXY, 0x11, FOUR[:-1]),
    two(PROXY, 0x21, SIX[:-1]),
    two(PROXY, 0x31, bytes(215)),
    two(PROXY, 0x11, FOUR + b"\x04"),
    two(PROXY, 0x11, FOUR + b"\x04\x00"),
    two(PROXY, 0x11, FOUR + b"\x04\x00\x01"),
    two(PROXY, 0x11, FOUR + tlv(3, bytes(4))),
    two(PROXY, 0x11, FOUR + tlv(3, b"")),
    two(PROXY, 0x11, FOUR + tlv(3, bytes(5))),
    checked(b"")[:-1] + b"\xff",
    two(PROXY, 0x11, b"", length=0xFFFF),
    two(LOCAL, 0x00, b"", length=MOST - 15),
]


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(BadHeader) as caught:
        parse(data)
    assert str(caught.value).isascii()
    # Byte by byte too: it is refused somewhere on the way, and never taken.
    assert all(refused(data[:end]) or parse(data[:end]) is None for end in range(1, len(data) + 1))


def refused(data: bytes) -> bool:
    try:
        parse(data)
    except BadHeader:
        return True
    return False


def test_it_is_refused_as_soon_as_it_shows() -> None:
    for data, enough in (
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"\x16\x03\x01", 1),
        (b"PROXX", 5),
        (b"\r\nGET / HTTP", 3),
        (two(PROXY, 0x11, b"", length=0xFFFF), 16),
        (two(0x31, 0x11, FOUR), 16),
    ):
        assert enough == 1 or parse(data[: enough - 1]) is None
        with pytest.raises(BadHeader):
            parse(data[:enough])


def test_the_checksum_is_the_one_of_the_rfc() -> None:
    """RFC 3720 appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@given(
    st.sampled_from(
        [b"", b"PROXY ", b"PROXY TCP4 1.2.3.4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c", checked(b"")]
    ),
    st.binary(max_size=120),
)
def test_nothing_else_is_raised_and_nothing_behind_it_matters(begin: bytes, rest: bytes) -> None:
    data = begin + rest
    if not data:
        return
    try:
        found = parse(data)
    except BadHeader:
        return
    if found is not None:
        assert found.size <= min(len(data), MOST)
        assert parse(data[: found.size]) == found
