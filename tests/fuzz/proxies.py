"""What proxies say: headers of the PROXY protocol, and the fields X-Forwarded-* and Forwarded.

Promises: ``examine`` raises when anything but a refusal comes out, when a cut changes the verdict on a PROXY header,
when an address is not in its one form, or is not the one that the header was made from, and when what a client has
written to the left of its own address changes what its request means. Any thread may call it.
"""

from __future__ import annotations

import struct
import threading
from ipaddress import ip_address
from typing import Final, NamedTuple

from serverd.server.http.events import Headers
from serverd.server.proxy.headers import FOR, FORWARDED, HOST, PORT, PROTO, BadField, Here, resolve
from serverd.server.proxy.protocol import BadHeader, Told, crc32c, parse
from serverd.server.proxy.trust import Trust

from .mutate import Rnd, mutate, pick
from .reading import Finding
from .requests import BATCH

_ALL: Final = frozenset((FORWARDED, FOR, PROTO, HOST, PORT))
_HERE: Final = Here(("127.0.0.1", 4711), False, ("127.0.0.1", 8000))
_NETWORKS: Final = ("127.0.0.1", "10.0.0.0/8", "2001:db8:f::/48")

_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
# fmt: off
_FOUR: Final = (b"192.0.2.1", b"10.0.0.1", b"127.0.0.1", b"255.255.255.255", b"0.0.0.0")
_SIX: Final = (b"2001:db8::1", b"::", b"::1", b"2001:db8:f::7", b"fe80::1", b"1:2:3:4:5:6:7:8")
_BAD: Final = (
    b"", b"01.2.3.4", b"1.2.3", b"1.2.3.4.5", b"256.1.1.1", b"::1%eth0", b"1::2::3", b"a", b"\xff", b"1.2.3.4\n",
    b"\x00", b"::ffff:1.2.3.4", b"0x7f.1", b"1.2.3.4 ", b"[::1]",
)
_PORTS: Final = (b"0", b"1", b"80", b"65535")
_BAD_PORTS: Final = (b"", b"65536", b"080", b"-1", b"+1", b"99999", b"\xb2", b"1_0", b"123456")
_HOPS: Final = (
    b"192.0.2.1",
    b"10.0.0.1",
    b"2001:db8::1",
    b"[2001:db8:f::7]:80",
    b"192.0.2.7:4711",
    b"unknown",
    b"10.1.2.3:_a",
)
_JUNK: Final = (
    b"",
    b"x",
    b'"',
    b"<script>",
    b"1.2.3.4.5",
    b"_hidden",
    b"a;b=c",
    b"\xff",
    b"[::1",
    b"for=x",
    b"%00",
    b"::1%1",
)
_PROTOS: Final = (b"http", b"https", b"HTTPS", b"ws", b"wss", b"https, http", b"", b"ftp", b"x,y,z")
_HOSTS: Final = (b"example.com", b"example.com:8443", b"[::1]", b"h, h", b"", b"a b", b"u@h", b"h:0", b"h:")
_PARAMETERS: Final = (
    b"for=192.0.2.1", b'for="[2001:db8::1]:80"', b"for=_a", b"for=unknown", b"for=10.0.0.1", b"proto=https",
    b"proto=http", b"host=example.com",
    b'host="example.com:81"', b"by=_b", b"For=192.0.2.1", b"for=x", b'for="', b"for",
    b"=", b"for=", b'for="\\"', b'host="a b"', b"secret=1", b'for="192.0.2.1:99"', b"for=[::1]",
)
# fmt: on


class Opening(NamedTuple):
    """The first bytes of a connection, and the client and server that they were made from, if they were left whole."""

    data: bytes
    said: tuple[object, object] | None


class Fields(NamedTuple):
    """The fields of a request that a trusted peer has sent."""

    headers: Headers


def batch(rnd: Rnd) -> list[Opening | Fields]:
    """BATCH inputs, half of each kind."""
    return [opening(rnd) if rnd() < 0.5 else Fields(_fields(rnd)) for _ in range(BATCH)]


def opening(rnd: Rnd) -> Opening:
    """A header of either version, and the beginning of a request behind it."""
    whole = rnd() < 0.5
    data, said = (_version_1 if rnd() < 0.5 else _version_2)(rnd, whole)
    if not whole and rnd() < 0.7:
        data, said = mutate(rnd, data), None
    data += pick(rnd, (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n", b"PROXY UNKNOWN\r\n"))
    return Opening(data, said)


def _version_1(rnd: Rnd, whole: bool) -> tuple[bytes, tuple[object, object] | None]:
    six = rnd() < 0.5
    if rnd() < 0.1:
        return b"PROXY UNKNOWN" + pick(
            rnd, (b"", b" ", b" a b c", b" \xff", b" a\nb", b" " + b"u" * 90)
        ) + b"\r\n", None
    words = [pick(rnd, _SIX if six else _FOUR) for _ in range(2)] + [pick(rnd, _PORTS) for _ in range(2)]
    said = _said(words[0], int(words[2])), _said(words[1], int(words[3]))
    if not whole:
        at = int(rnd() * 4)
        words[at] = pick(rnd, _BAD if at < 2 else _BAD_PORTS)
    line = b"PROXY %s %s" % (b"TCP6" if six else b"TCP4", b" ".join(words))
    return line + b"\r\n", said if whole else None


def _said(address: bytes, port: int) -> tuple[str, int]:
    found = ip_address(address.decode())
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found), port


def _version_2(rnd: Rnd, whole: bool) -> tuple[bytes, tuple[object, object] | None]:
    six = rnd() < 0.5
    width = 16 if six else 4
    one, two = (bytes(int(rnd() * 256) for _ in range(width)) for _ in range(2))
    ports = int(rnd() * 65536), int(rnd() * 65536)
    body = one + two + struct.pack(">HH", *ports)
    command, family = 0x21, 0x21 if six else 0x11
    said: tuple[object, object] | None = _from_bytes(one, ports[0]), _from_bytes(two, ports[1])
    if not whole:
        command, family = pick(rnd, (0x20, 0x21, 0x22, 0x11)), pick(rnd, (0x00, 0x11, 0x12, 0x21, 0x31, 0x41))
        said = None
        if family == 0x31 and rnd() < 0.7:
            body = bytes(216)
    for _ in range(int(rnd() * rnd() * 4)):
        value = bytes((int(rnd() * 256),)) * int(rnd() * 40)
        body += struct.pack(">BH", pick(rnd, (1, 2, 4, 5, 0x20, 0xEA)), len(value)) + value
    sum_at = len(_V2) + 4 + len(body) + 3
    if rnd() < 0.3:
        body += struct.pack(">BHI", 3, 4, 0)
    data = _V2 + struct.pack(">BBH", command, family, len(body)) + body
    if len(data) == sum_at + 4:
        data = data[:sum_at] + crc32c(data).to_bytes(4)
    return data, said


def _from_bytes(address: bytes, port: int) -> tuple[str, int]:
    return _said(str(ip_address(address)).encode(), port)


def _fields(rnd: Rnd) -> Headers:
    headers: Headers = [(b"host", b"site:8000")] if rnd() < 0.9 else []
    for _ in range(int(rnd() * 3)):
        hops = [pick(rnd, _HOPS if rnd() < 0.85 else _JUNK) for _ in range(1 + int(rnd() * 4))]
        headers.append((FOR, pick(rnd, (b",", b", ", b" ,")).join(hops)))
    for name, values, chance in (
        (PROTO, _PROTOS, 0.4),
        (HOST, _HOSTS, 0.2),
        (PORT, _PORTS + _BAD_PORTS, 0.15),
    ):
        if rnd() < chance:
            headers.append((name, pick(rnd, values)))
    if rnd() < 0.4:
        elements = [
            b";".join(pick(rnd, _PARAMETERS) for _ in range(1 + int(rnd() * 3)))
            for _ in range(1 + int(rnd() * 3))
        ]
        headers.append((FORWARDED, pick(rnd, (b",", b", ")).join(elements)))
    if rnd() < 0.1 and headers:
        name, value = pick(rnd, headers)
        if name != b"host":  # that one the parser has checked
            headers.append((name, mutate(rnd, value)))
    return headers


class _Trusts(threading.local):
    def __init__(self) -> None:
        self.trust = Trust(_NETWORKS)


_local: Final = _Trusts()


def examine(case: Opening | Fields, rnd: Rnd) -> list[str]:
    """Hold one input to everything; what became of it."""
    if isinstance(case, Opening):
        return _examine_opening(case, [1 + int(rnd() * len(case.data)) for _ in range(3)])
    return _examine_fields(case.headers)


def examine_every_cut(case: Opening | Fields) -> list[str]:
    """The same for every place at which the bytes can be cut."""
    if isinstance(case, Opening):
        return _examine_opening(case, list(range(len(case.data))))
    return _examine_fields(case.headers)


def _parsed(data: bytes) -> Told | str | None:
    """The header, None where it is not complete, or why it is refused."""
    try:
        return parse(data)
    except BadHeader as error:
        if not str(error).isascii() or not str(error).isprintable():
            raise Finding(f"refused with {error}") from None
        return str(error)


def _examine_opening(case: Opening, places: list[int]) -> list[str]:
    data = case.data
    whole = _parsed(data)
    for at in places:
        part = _parsed(data[:at])
        # Of two faults the one that comes first may be seen first; that it is refused never depends on the cut.
        if part is not None and part != whole and not (isinstance(part, str) and isinstance(whole, str)):
            raise Finding(f"the first {at} bytes of {data!r} are {part}, the whole is {whole}")
    if isinstance(whole, Told):
        if not 0 < whole.size <= len(data) or _parsed(data[: whole.size]) != whole:
            raise Finding(f"{data!r} is {whole}, without what stands behind it {_parsed(data[: whole.size])}")
        for address in (whole.client, whole.server):
            _look_at(address)
        if case.said is not None and (whole.client, whole.server) != case.said:
            raise Finding(f"{data!r} is {whole}, but it was made from {case.said}")
        return ["opening: read"]
    if case.said is not None:
        raise Finding(f"{data!r} is {whole}, but it was made from {case.said}")
    return ["opening: incomplete"] if whole is None else ["opening: refused", whole]


def _look_at(address: object) -> None:
    """Raise Finding unless this is None or an address in its one form, with a port."""
    if address is None:
        return
    host, port = address if isinstance(address, tuple) else ("", -1)
    if port is not None and (str(_known(host)) != host or not 0 <= port <= 65535):
        raise Finding(f"the address is {address}")


def _known(host: str) -> object:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _resolved(headers: Headers) -> tuple[object, ...] | str | None:
    try:
        found = resolve(headers, _ALL, _local.trust, _HERE)
    except BadField as error:
        if error.status != 400 or not error.message.isascii() or not error.message.isprintable():
            raise Finding(f"refused with {error}") from None
        return error.message
    if found is None:
        return None
    origin, host = found
    return origin.client, origin.secure, origin.server, origin.name, host


def _examine_fields(headers: Headers) -> list[str]:
    one = _resolved(headers)
    if isinstance(one, tuple):
        _look_at(one[0])
        server = one[2]
        if not isinstance(server, tuple) or not server[0] or not 0 <= server[1] <= 65535:
            raise Finding(f"{headers} are for the server {server}")
    # RFC 9110 5.3: two lines are one list.
    merged = [field for field in headers if field[0] not in (FOR, FORWARDED)]
    for name in (FOR, FORWARDED):
        if values := [value for found, value in headers if found == name]:
            merged.append((name, b", ".join(values)))
    if _resolved(merged) != one:
        raise Finding(f"{headers} mean {one}, with lines put together {_resolved(merged)}")
    names = [name for name, _ in headers]
    if isinstance(one, tuple) and one[0] is not None and set(names) <= {b"host", FOR}:
        client = one[0][0] if isinstance(one[0], tuple) else ""
        if not _local.trust.hop(ip_address(client).packed):
            at = names.index(FOR)
            longer = [*headers[:at], (FOR, b"6.6.6.6, junk;x"), *headers[at:]]
            if _resolved(longer) != one:
                raise Finding(f"{headers} mean {one}, and {_resolved(longer)} with more to the left")
    if isinstance(one, str):
        return ["fields: refused", one]
    return ["fields: nothing said"] if one is None else ["fields: read"]


def plain(case: Opening | Fields) -> dict[str, object]:
    """As JSON can hold it."""
    if isinstance(case, Opening):
        return {"data": case.data.decode("latin-1")}
    return {"headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in case.headers]}


def build(saved: dict[str, object]) -> Opening | Fields:
    """An input from its JSON."""
    if isinstance(data := saved.get("data"), str):
        return Opening(data.encode("latin-1"), None)
    headers = saved["headers"]
    assert isinstance(headers, list)
    return Fields([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers])
