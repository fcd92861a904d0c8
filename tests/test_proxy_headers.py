"""What proxies say of a client: addresses, the grammar of Forwarded, who is trusted, and what follows for a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.config import ServerConfig
from serverd.server.http import HeadLimits, parse_request
from serverd.server.http.events import Headers, Origin, ProtocolError
from serverd.server.proxy.forwarded import MalformedForwarded, parse
from serverd.server.proxy.headers import FOR, FORWARDED, HOST, PORT, PROTO, BadField, Here, resolve
from serverd.server.proxy.nodes import UNKNOWN, Node, listed, node, pack, spell
from serverd.server.proxy.trust import Trust

ALL = frozenset((FORWARDED, FOR, PROTO, HOST, PORT))
TRUST = Trust(["127.0.0.1", "10.0.0.0/8", "2001:db8:f::/48"])
HERE = Here(("127.0.0.1", 4711), False, ("127.0.0.1", 8000))


def fields(text: str) -> Headers:
    """The fields of a head, after its Host."""
    lines = ["Host: site", *filter(None, map(str.strip, text.strip().split("\n")))]
    head = "".join(f"{line}\r\n" for line in ["GET / HTTP/1.1", *lines, ""])
    request = parse_request(head.encode("latin-1"), HeadLimits(0, 0, 0))
    assert request is not None
    return request.headers


def told(text: str, counted: frozenset[bytes] = ALL, here: Here = HERE) -> tuple[Origin, bytes] | None:
    return resolve(fields(text), counted, TRUST, here)


def says(text: str) -> tuple[object, ...]:
    """Client, whether secure, server, and the new Host."""
    found = told(text)
    assert found is not None
    origin, host = found
    return origin.client, origin.secure, origin.server, host.decode()


LOCAL = ("127.0.0.1", 8000)
SAID = [
    # the client: the first from the right that is no proxy
    ("X-Forwarded-For: 1.2.3.4", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 6.6.6.6, 1.2.3.4", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.1,10.0.0.2", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 10.0.0.9, 10.0.0.1", (("10.0.0.9", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 6.6.6.6\nX-Forwarded-For: 1.2.3.4", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 1.2.3.4\nX-Forwarded-For: 10.0.0.1", (("1.2.3.4", 0), False, LOCAL, "")),
    ('X-Forwarded-For: <script>, "x, 1.2.3.4', (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: , 1.2.3.4 ,,", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: 1.2.3.4:5678", (("1.2.3.4", 5678), False, LOCAL, "")),
    ("X-Forwarded-For: [2001:DB8::1]:5678", (("2001:db8::1", 5678), False, LOCAL, "")),
    ("X-Forwarded-For: 2001:db8:0::1, 2001:db8:f::7", (("2001:db8::1", 0), False, LOCAL, "")),
    ("X-Forwarded-For: ::ffff:1.2.3.4, ::ffff:10.1.1.1", (("1.2.3.4", 0), False, LOCAL, "")),
    ("X-Forwarded-For: unknown, 10.0.0.1", (None, False, LOCAL, "")),
    # what belongs to that hop
    ("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Proto: HTTPS", (("1.2.3.4", 0), True, LOCAL, "")),
    ("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Proto: wss", (("1.2.3.4", 0), True, LOCAL, "")),
    ("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Proto: ws", (("1.2.3.4", 0), False, LOCAL, "")),
    (
        "X-Forwarded-For: 1.2.3.4, 10.0.0.1\nX-Forwarded-Proto: https, http",
        (("1.2.3.4", 0), True, LOCAL, ""),
    ),
    (
        "X-Forwarded-For: 6.6.6.6, 1.2.3.4\nX-Forwarded-Proto: https, http",
        (("1.2.3.4", 0), False, LOCAL, ""),
    ),
    ("X-Forwarded-For: 6.6.6.6, 1.2.3.4\nX-Forwarded-Proto: https", (("1.2.3.4", 0), True, LOCAL, "")),
    ("X-Forwarded-Proto: https", (HERE.peer, True, LOCAL, "")),
    ("X-Forwarded-Host: a.example", (HERE.peer, False, ("a.example", 80), "a.example")),
    (
        "X-Forwarded-For: 1.2.3.4, 10.0.0.1\nX-Forwarded-Host: a.example:81, b",
        (("1.2.3.4", 0), False, ("a.example", 81), "a.example:81"),
    ),
    (
        "X-Forwarded-Proto: https\nX-Forwarded-Host: [::1]",
        (HERE.peer, True, ("::1", 443), "[::1]"),
    ),
    ("X-Forwarded-Host: [::1]:8443", (HERE.peer, False, ("::1", 8443), "[::1]:8443")),
    ("X-Forwarded-Host: site", (HERE.peer, False, ("site", 80), "")),
    ("X-Forwarded-Port: 8080", (HERE.peer, False, ("site", 8080), "site:8080")),
    ("X-Forwarded-Port: 443\nX-Forwarded-Proto: https", (HERE.peer, True, ("site", 443), "")),
    # the port that was typed is the one of Host: that of the proxy may be another, behind a mapped one
    ("X-Forwarded-Port: 80\nX-Forwarded-Host: a:8080", (HERE.peer, False, ("a", 8080), "a:8080")),
    # Forwarded
    ("Forwarded: for=1.2.3.4", (("1.2.3.4", 0), False, LOCAL, "")),
    (
        'Forwarded: For="[2001:db8::1]:4711";Proto=https;Host="a.example:81";by=10.0.0.1',
        (("2001:db8::1", 4711), True, ("a.example", 81), "a.example:81"),
    ),
    (
        "Forwarded: for=6.6.6.6;host=evil, for=1.2.3.4; proto=https ,for=10.0.0.1;proto=http",
        (("1.2.3.4", 0), True, LOCAL, ""),
    ),
    ("Forwarded: for=6.6.6.6\nForwarded: for=1.2.3.4", (("1.2.3.4", 0), False, LOCAL, "")),
    ('Forwarded: for="_hidden:_port"', (None, False, LOCAL, "")),
    ("Forwarded: for=unknown;proto=https", (None, True, LOCAL, "")),
    ('Forwarded: for="1.2.3.4:_x"', (("1.2.3.4", 0), False, LOCAL, "")),
    ("Forwarded: for=6.6.6.6, proto=https", (HERE.peer, True, LOCAL, "")),
    ("Forwarded: for=6.6.6.6, proto=https, for=10.0.0.5", (("10.0.0.5", 0), True, LOCAL, "")),
    ('Forwarded: for="\\1.2.3.4";secret="a,;\\"b"', (("1.2.3.4", 0), False, LOCAL, "")),
    # both, of one mind
    (
        'X-Forwarded-For: 1.2.3.4\nForwarded: for="1.2.3.4:99";proto=https;host=SITE',
        (("1.2.3.4", 99), True, LOCAL, ""),
    ),
    (
        "X-Forwarded-For: 1.2.3.4\nX-Forwarded-Host: a\nForwarded: proto=https;host=a",
        (("1.2.3.4", 0), True, ("a", 443), "a"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), SAID, ids=[text for text, _ in SAID])
def test_what_is_said(text: str, expected: tuple[object, ...]) -> None:
    assert says(text) == expected


NOTHING = ["", "X-Forwarded-For:", "X-Forwarded-For: ,", "Forwarded:", "Forwarded: ;,", "X-Real-IP: 1.2.3.4",
           "X_Forwarded_For: 1.2.3.4", "X-Forwarded-Server: x", "X-Forwarded-Ssl: on"]  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
def test_what_says_nothing(text: str) -> None:
    assert told(text) is None


NONSENSE = [
    ("X-Forwarded-For: localhost", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 01.2.3.4", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3.4:", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3.4:99999", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3.4:+1", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: [1.2.3.4]", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: [::1", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: [::1]x", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: fe80::1%eth0", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3.4, x, 10.0.0.1", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: 1.2.3.4 5.6.7.8", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-For: \xb9.2.3.4", "X-Forwarded-For: an element is no IP address"),
    ("X-Forwarded-Proto: ftp", "X-Forwarded-Proto: the protocol is none of http, https, ws and wss"),
    ("X-Forwarded-Proto: https, http", "X-Forwarded-Proto: it has several values, and not as many as X-Forwarded-For"),
    ("X-Forwarded-Proto: https\nX-Forwarded-Proto: http",
     "X-Forwarded-Proto: it has several values, and not as many as X-Forwarded-For"),
    ("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Host: a, b",
     "X-Forwarded-Host: it has several values, and not as many as X-Forwarded-For"),
    ("X-Forwarded-Host: a b", "X-Forwarded-Host: the host is not a valid host and port"),
    ("X-Forwarded-Host: user@a", "X-Forwarded-Host: the host is not a valid host and port"),
    ("X-Forwarded-Host: a/b", "X-Forwarded-Host: the host is not a valid host and port"),
    ("X-Forwarded-Host: a:70000", "X-Forwarded-Host: the host is not a valid host and port"),
    ("X-Forwarded-Port: 0", "X-Forwarded-Port: it is no port"),
    ("X-Forwarded-Port: 65536", "X-Forwarded-Port: it is no port"),
    ("X-Forwarded-Port: 8o", "X-Forwarded-Port: it is no port"),
    ("Forwarded: for", "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ("Forwarded: for=1.2.3.4:80", "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ("Forwarded: for = 1.2.3.4", "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ('Forwarded: for="1.2.3.4', "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ('Forwarded: for="\nForwarded: for=1.2.3.4', "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ('Forwarded: x="\nForwarded: for="[::1]"', "Forwarded: it is not a list of name=value pairs (RFC 7239 4)"),
    ("Forwarded: for=1.2.3.4;For=1.2.3.4", "Forwarded: an element has the same parameter twice (RFC 7239 4)"),
    ("Forwarded: for=localhost", 'Forwarded: "for" is no address, "unknown" or identifier (RFC 7239 6)'),
    ('Forwarded: for="::1"', 'Forwarded: "for" is no address, "unknown" or identifier (RFC 7239 6)'),
    ('Forwarded: for=""', 'Forwarded: "for" is no address, "unknown" or identifier (RFC 7239 6)'),
    ("Forwarded: for=_", 'Forwarded: "for" is no address, "unknown" or identifier (RFC 7239 6)'),
    ("Forwarded: for=1.2.3.4;proto=gopher", "Forwarded: the protocol is none of http, https, ws and wss"),
    ('Forwarded: host="a b"', "Forwarded: the host is not a valid host and port"),
    ("X-Forwarded-For: 1.2.3.4\nForwarded: for=6.6.6.6", "Forwarded: it names another client than X-Forwarded-For"),
    ("X-Forwarded-For: 1.2.3.4\nForwarded: for=unknown", "Forwarded: it names another client than X-Forwarded-For"),
    ("X-Forwarded-Proto: http\nForwarded: proto=https",
     "Forwarded: it names another protocol than X-Forwarded-Proto"),
    ("X-Forwarded-For: 1.2.3.4\nForwarded: host=evil", "Forwarded: it names another host than the fields beside it"),
    ("X-Forwarded-Host: a\nForwarded: host=b", "Forwarded: it names another host than the fields beside it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), NONSENSE, ids=[text for text, _ in NONSENSE])
def test_nonsense_is_400(text: str, message: str) -> None:
    with pytest.raises(BadField) as caught:
        told(text)
    assert (caught.value.status, caught.value.message) == (400, message)


def test_only_the_headers_that_count_count() -> None:
    default = frozenset(name.encode() for name in ServerConfig(app="x:y").proxy.headers)
    assert default == {FOR, PROTO}
    assert told("X-Forwarded-Host: evil\nX-Forwarded-Port: 1\nForwarded: host=evil", default) is None
    found = told("X-Forwarded-For: 1.2.3.4\nX-Forwarded-Host: a b\nForwarded: host=evil", frozenset((FOR,)))
    assert found is not None
    assert (found[0].client, found[0].server, found[1]) == (("1.2.3.4", 0), LOCAL, b"")


def test_what_is_said_beside_the_connection() -> None:
    here = Here(None, True, ("/run/a.sock", None))
    found = told("X-Forwarded-For: 1.2.3.4", here=here)
    assert found is not None
    assert (found[0].client, found[0].secure, found[0].server, found[0].name) == (
        ("1.2.3.4", 0),
        True,
        ("/run/a.sock", None),
        "1.2.3.4",
    )
    found = told("X-Forwarded-Proto: http", here=here)
    assert found is not None
    assert (found[0].client, found[0].secure, found[0].name) == (None, False, "unix")
    found = told("Forwarded: for=_a", here=here)
    assert found is not None
    assert found[0].name == "unknown"


PEERS = [
    (["127.0.0.1"], "127.0.0.1", True),
    (["127.0.0.1"], "127.0.0.2", False),
    (["127.0.0.1"], "::ffff:127.0.0.1", True),
    (["127.0.0.1"], "::1", False),
    (["10.0.0.0/8"], "10.255.0.1", True),
    (["10.0.0.0/8"], "11.0.0.0", False),
    (["0.0.0.0/0"], "9.9.9.9", True),
    (["0.0.0.0/0"], "2001:db8::1", False),
    (["::ffff:10.0.0.0/104"], "10.1.1.1", True),
    (["::ffff:10.0.0.0/104"], "11.1.1.1", False),
    (["2001:db8::/32"], "2001:db8:1::1", True),
    (["2001:db8::/32"], "2001:db9::1", False),
    (["::/0"], "2001:db9::1", True),
    (["::/0"], "10.0.0.1", False),
    (["fe80::/10"], "fe80::1%eth0", True),
    (["*"], "9.9.9.9", True),
    (["*"], None, True),
    (["unix"], None, True),
    (["unix"], "127.0.0.1", False),
    (["127.0.0.1"], None, False),
    ([], "127.0.0.1", False),
]


@pytest.mark.parametrize(("entries", "host", "trusted"), PEERS)
def test_who_is_trusted(entries: list[str], host: str | None, trusted: bool) -> None:
    trust = Trust(entries)
    for _ in range(2):  # the second time it remembers
        assert trust.peer(None if host is None else (host, 1)) is trusted


def test_everybody_is_a_proxy_and_no_address_that_they_tell_of() -> None:
    found = resolve(fields("X-Forwarded-For: 6.6.6.6, 1.2.3.4"), ALL, Trust(["*"]), HERE)
    assert found is not None
    assert found[0].client == ("1.2.3.4", 0)


def test_peers_without_end_are_not_remembered() -> None:
    trust = Trust(["10.0.0.0/8"])
    for number in range(2000):
        assert not trust.peer((f"9.9.{number // 256}.{number % 256}", 1))
    assert len(trust._known) <= 256


def test_addresses_are_read_strictly_and_written_canonically() -> None:
    assert spell(pack("2001:DB8:0:0:0::1") or b"") == "2001:db8::1"
    assert spell(pack("::ffff:1.2.3.4") or b"") == "1.2.3.4"
    for text in (
        "",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4\0",
        "1.2.3.256",
        "1.2.3.04",
        "0x1.2.3.4",
        "::1%1",
        "١.2.3.4",
    ):
        assert pack(text) is None
    assert node("UNKNOWN") == listed("Unknown") == UNKNOWN
    assert node('"1.2.3.4"') is None
    assert listed("_hidden") is None
    assert node("[::1]:0") == Node(bytes(15) + b"\x01", 0)


TEXT = st.text(st.sampled_from('"\\,;= :_[]fortphs1.2%\t\xff'), max_size=40)


@given(st.lists(st.tuples(st.sampled_from(sorted(ALL)), TEXT), max_size=5))
def test_nothing_else_is_raised_and_answers_make_sense(pairs: list[tuple[bytes, str]]) -> None:
    headers = [(name, text.strip(" \t").encode("latin-1")) for name, text in pairs]
    found = refusal = None
    try:
        found = resolve([(b"host", b"site"), *headers], ALL, TRUST, HERE)
    except ProtocolError as exc:
        refusal = exc
    if refusal is not None:
        assert refusal.status == 400
        assert refusal.message.isascii()
        assert refusal.message.isprintable()
    if found is not None:
        origin, host = found
        if origin.client is not None:
            assert pack(origin.client[0]) is not None
            assert 0 <= origin.client[1] <= 65535
        assert fields(f"X: y\nHost2: {host.decode('latin-1')}")


@given(st.binary(max_size=60))
def test_forwarded_is_read_or_refused(value: bytes) -> None:
    try:
        elements = parse(value)
    except MalformedForwarded:
        return
    assert all(element and all(name == name.lower() for name in element) for element in elements)


@given(
    st.lists(
        st.dictionaries(
            st.from_regex(r"[a-z]{1,5}", fullmatch=True).map(str.encode),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8).map(str.encode),
            min_size=1,
            max_size=3,
        ),
        max_size=3,
    )
)
def test_forwarded_reads_what_was_written(elements: list[dict[bytes, bytes]]) -> None:
    def quoted(value: bytes) -> bytes:
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'

    text = b", ".join(
        b";".join(name + b"=" + quoted(value) for name, value in element.items()) for element in elements
    )
    assert parse(text) == elements


def test_no_input_is_read_twice() -> None:
    for value in (
        b" " * 60_000,
        b'for="' + b"\\" * 60_000,
        b";" * 60_000 + b"x",
        b"a" * 60_000,
        b'a="' + b"b" * 60_000,
    ):
        try:
            parse(value + b"\x00")
        except MalformedForwarded:
            pass


def test_a_port_without_any_host_is_of_no_server() -> None:
    """HTTP/1.0 needs no Host; a server without a name would be no server."""
    found = resolve([(PORT, b"8443"), (PROTO, b"https")], ALL, TRUST, HERE)
    assert found is not None
    assert (found[0].server, found[1]) == (HERE.server, b"")
