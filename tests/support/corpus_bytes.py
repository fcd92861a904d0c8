"""Each of the 256 bytes in each place of a request: the part of the corpus that is a table and not a list.

A place is a request with a gap, the bytes that may stand there, and what the gap means then. The sets are written
down from the ABNF of RFC 9110, 9112 and 3986 once more, so that they can disagree with those of the parsers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from serverd.server.http import HeadLimits

from .corpus import LIMITS, Case

DIGITS: Final = frozenset(b"0123456789")
HEX: Final = frozenset(b"0123456789abcdefABCDEF")
ALPHA: Final = frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B))
TCHAR: Final = DIGITS | ALPHA | frozenset(b"!#$%&'*+-.^_`|~")  # RFC 9110 5.6.2
BLANK: Final = frozenset(b" \t")
OBS_TEXT: Final = frozenset(range(0x80, 0x100))
VALUE: Final = frozenset(range(0x21, 0x7F)) | OBS_TEXT | BLANK  # RFC 9110 5.5: field-vchar, SP, HTAB
UNRESERVED: Final = DIGITS | ALPHA | frozenset(b"-._~")  # RFC 3986 2.3
PCHAR: Final = UNRESERVED | frozenset(b"!$&'()*+,;=:@")  # RFC 3986 3.3, without pct-encoded
HOST: Final = UNRESERVED | frozenset(b"!$&'()*+;=")  # RFC 3986 3.2.2: reg-name; docs/http.md: without ","
NONE: Final[frozenset[int]] = frozenset()

POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKS: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST: Final = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Place:
    """A gap in a request.

    data: the request with a byte in its gap. good: what may stand there. other: the status for all else, unless
    ``rare`` has another (0: accepted, with a meaning of its own). sees: of the request, with a good byte in the gap.
    """

    title: str
    rfc: str
    data: Callable[[bytes], bytes]
    good: frozenset[int]
    other: int = 400
    rare: tuple[tuple[frozenset[int], int], ...] = ()
    sees: Callable[[bytes], dict[str, Any]] | None = None

    def status(self, byte: int) -> int:
        """What this byte is answered with; 0 if the request is right."""
        if byte in self.good:
            return 0
        return next((status for bytes_, status in self.rare if byte in bytes_), self.other)


def _field(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    return lambda gap: b"GET / HTTP/1.1\r\nHost: a\r\n%b%b%b\r\n\r\n" % (before, gap, after)


def _line(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    return lambda gap: b"%b%b%b\r\nHost: a\r\n\r\n" % (before, gap, after)


def _chunk(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    return lambda gap: CHUNKS + before + gap + after


def _headers(*pairs: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"headers": [(b"host", b"a"), *pairs]}


def _sized(text: bytes) -> bytes:
    """A request with this Content-Length and, if it is one, as many bytes of body."""
    number = text.strip(b" \t")
    return POST + b"Content-Length:%b\r\n\r\n" % text + b"x" * (int(number) if number.isdigit() else 0)


def _sized_chunk(text: bytes) -> bytes:
    size = int(text, 16) if all(byte in HEX for byte in text) else 5
    return CHUNKS + text + (b"\r\n" + b"x" * size + LAST if size else b"\r\n\r\n")


_COLON: Final = (frozenset(b":"), 0)

PLACES: Final = [
    Place(
        "first byte of all",
        "9112 3",
        _line(b"", b"ET / HTTP/1.1"),
        TCHAR,
        sees=lambda b: {"method": f"{b.decode()}ET"},
    ),
    Place(
        "in the method",
        "9110 9.1",
        _line(b"G", b"T / HTTP/1.1"),
        TCHAR,
        sees=lambda b: {"method": f"G{b.decode()}T"},
    ),
    Place("after the method", "9112 3", _line(b"GET", b"/ HTTP/1.1"), frozenset(b" ")),
    Place("first byte of the target", "9112 3.2", _line(b"GET ", b"a HTTP/1.1"), frozenset(b"/")),
    Place(
        "in the path",
        "3986 3.3",
        _line(b"GET /a", b"zz HTTP/1.1"),
        PCHAR | frozenset(b"/[]^|"),
        rare=((frozenset(b"?"), 0),),
        sees=lambda b: {"raw_path": b"/a%bzz" % b, "query": b""},
    ),
    Place(
        "in the query",
        "3986 3.4",
        _line(b"GET /?a", b"zz HTTP/1.1"),
        PCHAR | frozenset(b"/?[]^|\\`{}%"),
        sees=lambda b: {"raw_path": b"/", "query": b"a%bzz" % b},
    ),
    Place("in the scheme", "9110 4.2", _line(b"GET http", b"//b.example/ HTTP/1.1"), frozenset(b":")),
    Place(
        "in the authority",
        "3986 3.2.2",
        _line(b"GET http://b", b"c/ HTTP/1.1"),
        HOST,
        rare=((frozenset(b"/?"), 0),),
        sees=lambda b: {"headers": [(b"host", b"b%bc" % b)], "raw_path": b"/"},
    ),
    Place("after the target", "9112 3", _line(b"GET /", b"HTTP/1.1"), frozenset(b" ")),
    Place("first byte of the version", "9112 2.3", _line(b"GET / ", b"TTP/1.1"), frozenset(b"H")),
    Place("major version", "9112 2.3", _line(b"GET / HTTP/", b".1"), frozenset(b"1"), rare=((DIGITS, 505),)),
    Place("dot of the version", "9112 2.3", _line(b"GET / HTTP/1", b"1"), frozenset(b".")),
    Place("minor version", "9112 2.3", _line(b"GET / HTTP/1.", b""), frozenset(b"01"), rare=((DIGITS, 505),)),
    Place("after the version", "9112 3", _line(b"GET / HTTP/1.1", b""), NONE),
    Place(
        "first byte of a name",
        "9110 5.1",
        _field(b"", b"A: b"),
        TCHAR,
        sees=lambda b: _headers((b"%ba" % b.lower(), b"b")),
    ),
    Place(
        "in a name",
        "9110 5.1",
        _field(b"A", b"B: c"),
        TCHAR,
        rare=(_COLON,),
        sees=lambda b: _headers((b"a%bb" % b.lower(), b"c")),
    ),
    Place(
        "before the colon",
        "9112 5.1",
        _field(b"A", b": b"),
        TCHAR,
        rare=(_COLON,),
        sees=lambda b: _headers((b"a" + b.lower(), b"b")),
    ),
    Place(
        "in place of the colon",
        "9112 5",
        _field(b"A", b" b"),
        frozenset(b":"),
        sees=lambda b: _headers((b"a", b"b")),
    ),
    Place(
        "after the colon",
        "9112 5",
        _field(b"A:", b"b"),
        VALUE,
        sees=lambda b: _headers((b"a", (b + b"b").strip(b" \t"))),
    ),
    Place(
        "in a value", "9110 5.5", _field(b"A: b", b"c"), VALUE, sees=lambda b: _headers((b"a", b"b%bc" % b))
    ),
    Place(
        "last byte of a value",
        "9110 5.5",
        _field(b"A: b", b""),
        VALUE,
        sees=lambda b: _headers((b"a", (b"b" + b).strip(b" \t"))),
    ),
    Place(
        "a value of its own",
        "9110 5.5",
        _field(b"A:", b""),
        VALUE,
        sees=lambda b: _headers((b"a", b.strip(b" \t"))),
    ),
    Place("after CR", "9112 2.2", _field(b"A: b\r", b"C: d"), frozenset(b"\n")),
    Place("before LF", "9112 2.2", _field(b"A: b", b"\nC: d"), frozenset(b"\r")),
    Place(
        "in Host",
        "9110 7.2",
        lambda b: b"GET / HTTP/1.1\r\nHost: a%bb\r\n\r\n" % b,
        HOST,
        sees=lambda b: {"headers": [(b"host", b"a%bb" % b)]},
    ),
    Place(
        "in the port", "3986 3.2.3", lambda b: b"GET / HTTP/1.1\r\nHost: a:8%b\r\n\r\n" % b, DIGITS | BLANK
    ),
    Place("before Content-Length's number", "9110 8.6", lambda b: _sized(b + b"3"), DIGITS | BLANK),
    Place("after Content-Length's number", "9110 8.6", lambda b: _sized(b" 1" + b), DIGITS | BLANK),
    Place(
        "before chunked",
        "9112 6.1",
        lambda b: POST + b"Transfer-Encoding:%bchunked\r\n\r\n0\r\n\r\n" % b,
        BLANK,
        sees=lambda b: {"chunked": True},
    ),
    Place(
        "in chunked",
        "9112 6.1",
        lambda b: POST + b"Transfer-Encoding: chun%bed\r\n\r\n0\r\n\r\n" % b,
        frozenset(b"kK"),
    ),
    Place(
        "after chunked",
        "9112 6.1",
        lambda b: POST + b"Transfer-Encoding: chunked%b\r\n\r\n0\r\n\r\n" % b,
        BLANK,
    ),
    Place(
        "in Expect",
        "9110 10.1.1",
        lambda b: POST + b"Content-Length: 1\r\nExpect: 100-continu%b\r\n\r\nx" % b,
        frozenset(b"eE"),
        rare=((VALUE, 417),),
        sees=lambda b: {"expect_continue": True},
    ),
    Place("a chunk's size", "9112 7.1", _sized_chunk, HEX),
    Place("after a chunk's size", "9112 7.1", lambda b: _sized_chunk(b"5" + b), HEX),
    Place("before a chunk's size", "9112 7.1", lambda b: _sized_chunk(b + b"5"), HEX),
    Place("before a chunk extension", "9112 7.1.1", _chunk(b"5;", b"a\r\nhello" + LAST), TCHAR | BLANK),
    Place(
        "in a chunk extension's name",
        "9112 7.1.1",
        _chunk(b"5;a", b"b\r\nhello" + LAST),
        TCHAR | frozenset(b";="),
    ),
    Place(
        "in a chunk extension's value",
        "9112 7.1.1",
        _chunk(b"5;a=b", b"c\r\nhello" + LAST),
        TCHAR | frozenset(b";"),
    ),
    Place(
        "in a quoted chunk extension",
        "9112 7.1.1",
        _chunk(b'5;a="b', b'c"\r\nhello' + LAST),
        VALUE - frozenset(b'"'),
    ),
    Place(
        "behind a backslash in a chunk extension",
        "9110 5.6.4",
        _chunk(b'5;a="\\', b'c"\r\nhello' + LAST),
        VALUE,
    ),
    Place(
        "after a quoted chunk extension",
        "9112 7.1.1",
        _chunk(b'5;a="b"', b"c\r\nhello" + LAST),
        frozenset(b";"),
    ),
    Place("after a chunk extension", "9112 7.1.1", _chunk(b"5;a=b", b"\r\nhello" + LAST), TCHAR),
    Place(
        "in a chunk's data",
        "9112 7.1",
        _chunk(b"5\r\nhe", b"lo" + LAST),
        frozenset(range(256)),
        sees=lambda b: {"body": b"he%blo" % b},
    ),
    Place("after a chunk's data", "9112 7.1", _chunk(b"5\r\nhello", LAST), NONE),
    Place("after the last chunk's size", "9112 7.1", lambda b: _sized_chunk(b"0" + b), HEX),
    Place("first byte of a trailer", "9112 7.1.2", _chunk(b"0\r\n", b"A: b\r\n\r\n"), TCHAR),
    Place("in a trailer's name", "9112 7.1.2", _chunk(b"0\r\nA", b"B: c\r\n\r\n"), TCHAR, rare=(_COLON,)),
    Place("in a trailer's value", "9112 7.1.2", _chunk(b"0\r\nA: b", b"c\r\n\r\n"), VALUE),
    Place("after the trailers", "9112 7.1.2", _chunk(b"0\r\nA: b\r\n", b"\n"), frozenset(b"\r")),
]


def byte_cases(place: Place) -> list[Case]:
    """The 256 cases of one place."""
    usual = (LIMITS["line"], LIMITS["head"], LIMITS["headers"])
    return [
        Case(
            id=f"{place.title}: {byte:#04x}",
            rfc=place.rfc,
            data=place.data(bytes([byte])),
            limits=HeadLimits(*usual),
            limits_as_given=usual,
            status=place.status(byte),
        )
        for byte in range(256)
    ]
