"""What the fields of a trusted proxy say about a request's client: X-Forwarded-* and Forwarded (RFC 7239).

Promises: only fields that ``proxy.headers`` names count, and only from a trusted peer; the client is the first address,
read from the nearest hop leftwards, that is no trusted proxy (the leftmost where all are); what stands left of it was
sent by that client, is not believed and need not make sense. What a trusted proxy says and cannot mean is a
ProtocolError (400), whose message has no byte of it. Refuses: to guess between two fields that say different things.

``resolve`` is a pure function. A ``Proxies`` belongs to one worker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...config import ProxyConfig
from ..connection import Address, Connection, Server
from ..http.events import Headers, Origin, ProtocolError, RequestReceived
from ..http.grammar import valid_host
from ..memo import LONGEST
from ..seldom import SeldomLog
from .forwarded import Element, MalformedForwarded, parse
from .nodes import Node, listed, node, port_number, spell
from .trust import Trust, who

FORWARDED: Final = b"forwarded"
FOR: Final = b"x-forwarded-for"
PROTO: Final = b"x-forwarded-proto"
HOST: Final = b"x-forwarded-host"
PORT: Final = b"x-forwarded-port"

_SPELLED: Final = {
    FORWARDED: "Forwarded",
    FOR: "X-Forwarded-For",
    PROTO: "X-Forwarded-Proto",
    HOST: "X-Forwarded-Host",
    PORT: "X-Forwarded-Port",
}
# A WebSocket's proxies write either (RFC 7239 5.4 says: the scheme of the URI; its case does not matter, RFC 3986 3.1).
_SECURE: Final = {b"https": True, b"wss": True, b"http": False, b"ws": False}
# So many of each kind are remembered, and of words not more than these bytes: 0.3 MB.
_MOST: Final = 512
_SHORT: Final = 256

# The origin, None where nothing is said of it, and the Host that the application is to see, b"" for the one that came.
Meaning = tuple[Origin | None, bytes]

_say = SeldomLog(logging.getLogger("serverd.worker"))


class BadField(ProtocolError):
    """A field of a trusted proxy says nothing that it can mean."""

    def __init__(self, field: bytes, fault: str) -> None:
        super().__init__(400, f"{_SPELLED[field]}: {fault}")


class Here(NamedTuple):
    """What the connection itself says."""

    peer: Address | None
    secure: bool
    server: Server | None


class Claim(NamedTuple):
    """What the proxies say; None, b"" and 0 where they say nothing."""

    client: Node | None = None
    secure: bool | None = None
    host: bytes = b""
    port: int = 0


# A fact about the peer of a connection that is no other peer's, but for its port: its address, whether it speaks TLS,
# and which server it has called.
Place = tuple[str | None, bool, Server | None]


class Proxies:
    """What one worker knows of the proxies in front.

    Clients come again, with other requests too: what the same words of the same peer mean is remembered, as reading
    them anew takes five times as long.
    """

    __slots__ = ("_counted", "_known", "_meanings", "_telling", "_trust")

    def __init__(self, config: ProxyConfig) -> None:
        self._trust = Trust(config.trusted)
        self._counted = frozenset(name.encode() for name in config.headers)
        self._telling = self._counted | {b"host"}
        # By the request's id, with the request itself, so that no other has that id meanwhile.
        self._known: dict[tuple[int, Place], tuple[RequestReceived, RequestReceived]] = {}
        self._meanings: dict[tuple[tuple[tuple[bytes, bytes], ...], Place], Meaning] = {}

    def trusts(self, conn: Connection) -> bool:
        """Whether what this connection tells of clients counts: it is a trusted proxy's."""
        return self._trust.peer(conn.peer) if conn.believed is None else conn.believed

    def told(self, conn: Connection, request: RequestReceived) -> RequestReceived:
        """``request``, which has fields of proxies, or another with what they say. Raises ProtocolError.

        Neither is to be changed: both may be given again.
        """
        if not self.trusts(conn):
            return request
        peer = conn.peer
        place = (peer and peer[0], conn.secure, conn.server)
        known = self._known.get((id(request), place))
        if known is not None:
            return known[1]
        telling = self._telling
        words = tuple([field for field in request.headers if field[0] in telling])
        meaning = self._meanings.get((words, place))
        if meaning is None:
            meaning = self._meaning(request, words, Here(peer, conn.secure, conn.server))
        origin, host = meaning
        if origin is None:
            return request
        told = request.told(origin, _with_host(request.headers, host) if host else request.headers)
        # Where the proxy does not name the client it is the peer, with a port that is this connection's alone.
        if origin.client is not peer:
            if request.head_size <= LONGEST:
                _keep(self._known, (id(request), place), (request, told))
            if sum(len(value) for _, value in words) <= _SHORT:
                _keep(self._meanings, (words, place), meaning)
        return told

    def _meaning(self, request: RequestReceived, words: Sequence[tuple[bytes, bytes]], here: Here) -> Meaning:
        """As ``resolve``; one line in the log, at times, for what it refuses. Raises BadField."""
        try:
            return resolve(words, self._counted, self._trust, here) or (None, b"")
        except BadField as exc:
            exc.silent = request.method == "HEAD"
            _say("a request by the trusted proxy %s was answered with 400: %s", who(here.peer), exc.message)
            raise


def _keep[K, V](known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= _MOST:
        known.clear()
    known[key] = value


def resolve(
    headers: Sequence[tuple[bytes, bytes]], counted: frozenset[bytes], trust: Trust, here: Here
) -> tuple[Origin, bytes] | None:
    """Where a request of a trusted peer comes from, and the Host that the application is to see (b"": the one that
    came); None if the fields that count say nothing. Raises BadField."""
    lines: dict[bytes, list[bytes]] = {}
    asked = b""
    for name, value in headers:
        if name in counted:
            lines.setdefault(name, []).append(value)
        elif name == b"host":
            asked = value
    listed_claim = _from_lists(lines, trust)
    element_claim = _from_elements(lines[FORWARDED], trust) if FORWARDED in lines else None
    claim = _agreed(listed_claim, element_claim, asked)
    if claim is None:
        return None
    secure = here.secure if claim.secure is None else claim.secure
    host, server = b"", here.server
    if claim.host or (claim.port and asked):  # a port alone, with HTTP/1.0, is of no name
        host, server = _server(claim, asked, secure)
    if claim.client is None:
        client = here.peer
    else:
        client = (spell(claim.client.address), claim.client.port) if claim.client.address else None
    word = client[0] if client is not None else "unknown" if claim.client is not None else "unix"
    return Origin(client, secure, server, word), host


def _from_lists(lines: dict[bytes, list[bytes]], trust: Trust) -> Claim | None:
    """What X-Forwarded-* say."""
    hops, protos, hosts, ports = (_items(lines.get(name, [])) for name in (FOR, PROTO, HOST, PORT))
    if not (hops or protos or hosts or ports):
        return None
    client: Node | None = None
    index = 0
    for index in range(len(hops) - 1, -1, -1):
        client = listed(hops[index].decode("latin-1"))
        if client is None:
            raise BadField(FOR, "an element is no IP address")
        if not trust.hop(client.address):
            break
    count = len(hops)
    proto, host, port = (
        _at(name, items, index, count) for name, items in ((PROTO, protos), (HOST, hosts), (PORT, ports))
    )
    number = port_number(port.decode("latin-1")) if port else 0
    if number is None or (port and not number):
        raise BadField(PORT, "it is no port")
    return Claim(client, _secure(PROTO, proto), _checked(HOST, host), number)


def _items(lines: list[bytes]) -> list[bytes]:
    """The elements of a list; several lines are one (RFC 9110 5.3), and empty elements are none (RFC 9110 5.6.1.2)."""
    return [item for line in lines for part in line.split(b",") if (item := part.strip(b" \t"))]


def _at(field: bytes, items: list[bytes], index: int, count: int) -> bytes:
    """The element that belongs to the hop ``index`` of ``count``."""
    if len(items) <= 1:
        return items[0] if items else b""
    if len(items) != count:
        raise BadField(field, "it has several values, and not as many as X-Forwarded-For")
    return items[index]


def _from_elements(lines: list[bytes], trust: Trust) -> Claim | None:
    """What Forwarded says."""
    try:
        elements = parse(b",".join(lines))
    except MalformedForwarded as exc:
        raise BadField(FORWARDED, str(exc)) from None
    if not elements:
        return None
    client: Node | None = None
    element: Element = {}
    for element in reversed(elements):
        if b"for" not in element:
            break  # this proxy does not say who was before it, so nobody knows who wrote what stands left of it
        client = node(element[b"for"].decode("latin-1"))
        if client is None:
            raise BadField(FORWARDED, '"for" is no address, "unknown" or identifier (RFC 7239 6)')
        if not trust.hop(client.address):
            break
    host = _checked(FORWARDED, element.get(b"host", b""))
    return Claim(client, _secure(FORWARDED, element.get(b"proto", b"")), host)


def _secure(field: bytes, value: bytes) -> bool | None:
    if not value:
        return None
    secure = _SECURE.get(value.lower())
    if secure is None:
        raise BadField(field, "the protocol is none of http, https, ws and wss")
    return secure


def _checked(field: bytes, host: bytes) -> bytes:
    if host and not valid_host(host):
        raise BadField(field, "the host is not a valid host and port")
    return host


def _agreed(lists: Claim | None, elements: Claim | None, asked: bytes) -> Claim | None:
    """What both kinds of field say together.

    A proxy that writes only the one kind passes the other on as its client has sent it: where both are there they may
    not contradict each other, and Forwarded may not change the host.
    """
    if lists is None or elements is None:
        return elements if lists is None else lists
    one, other = lists.client, elements.client
    if one is not None and other is not None and one.address != other.address:
        raise BadField(FORWARDED, "it names another client than X-Forwarded-For")
    if None not in (lists.secure, elements.secure) and lists.secure != elements.secure:
        raise BadField(FORWARDED, "it names another protocol than X-Forwarded-Proto")
    if elements.host and elements.host.lower() != (lists.host or asked).lower():
        raise BadField(FORWARDED, "it names another host than the fields beside it")
    return Claim(
        other if one is None or (other is not None and other.port and not one.port) else one,
        elements.secure if lists.secure is None else lists.secure,
        lists.host,
        lists.port,
    )


def _server(claim: Claim, asked: bytes, secure: bool) -> tuple[bytes, Server | None]:
    """The Host for the application (b"": the one that came), and the server that the client has called."""
    default = 443 if secure else 80
    host = claim.host or asked
    stem, _, digits = host.rpartition(b":")
    if not stem or host.endswith(b"]"):
        stem, digits = host, b""
        if claim.port and claim.port != default and host:
            host = b"%s:%d" % (host, claim.port)
    port = int(digits) if digits else claim.port or default
    name = stem.decode("latin-1").removeprefix("[").removesuffix("]")
    return host if host != asked else b"", (name, port)


def _with_host(headers: Headers, host: bytes) -> Headers:
    """As the authority of an absolute-form target replaces what Host says (RFC 9112 3.2.2)."""
    if not any(name == b"host" for name, _ in headers):
        return [(b"host", host), *headers]
    return [(name, host if name == b"host" else value) for name, value in headers]
