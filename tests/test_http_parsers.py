"""The two parsers agree with each other and with h11, raise nothing but ProtocolError, and do not mind how TCP cuts."""

from __future__ import annotations

import ast
import importlib.machinery
import py_compile
import sys
from pathlib import Path

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serverd.server.http import (
    HeadLimits,
    ProtocolError,
    RequestReceived,
    adds_nothing,
    general,
    names,
    parse_request,
    strict,
)

from .support.corpus import LIMITS, cut, cuts, load, play

BIG = HeadLimits(**LIMITS)
SMALL = HeadLimits(60, 200, 6)

# Pieces that a request is made of, good, doubtful and bad; a random mix of them comes near the edges of the grammar.
METHODS = [
    b"GET",
    b"POST",
    b"HEAD",
    b"OPTIONS",
    b"get",
    b"CONNECT",
    b"M-SEARCH",
    b"",
    b"G T",
    b"G\x00T",
    b"G\xe9T",
]
TARGETS = [
    b"/",
    b"/a?b",
    b"*",
    b"/%41",
    b"/%",
    b"/a b",
    b"/\xe9",
    b"/#",
    b"http://h/p",
    b"http://h",
    b"a:1",
    b"/\x7f",
    b"",
]
VERSIONS = [
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1,1",
    b"HTTP/1",
    b"",
]
SPACES = [b" ", b" ", b" ", b" ", b"  ", b"\t", b""]
NAMES = [
    b"Host", b"host", b"hOST", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Expect",
    b"Upgrade", b"Accept", b"X-Unknown", b"A B", b"", b"N\xe4me", b" Folded", b"Host ", b"Cookie",
]  # fmt: skip
COLONS = [b": ", b": ", b": ", b":", b" : ", b":\t", b"", b": \t "]
VALUES = [
    b"a", b"h", b"5", b"0", b"+5", b"5, 5", b"chunked", b"Chunked", b"gzip, chunked", b"close", b"keep-alive",
    b"close, upgrade", b"100-continue", b"websocket", b"", b"b c", b"\xff", b"v\x00", b"v\x0b", b"[::1]:80", b"h:80",
    b"h:x", b"u@h", b"100-Continue",
]  # fmt: skip
TABLES = [("names", "PLAIN"), ("names", "SPECIAL"), ("tables", "FIELDS"), ("tables", "STATUS_LINES")]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r"]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A request head out of the pieces above, now and then with a byte changed."""

    def pick(choices: list[bytes], good: int) -> bytes:
        """Mostly one of the first ``good`` choices, so that many heads are nearly right."""
        return draw(st.sampled_from(choices[:good] if draw(st.integers(0, 5)) else choices))

    line = b"".join(
        (
            pick(METHODS, 5),
            pick(SPACES, 1),
            pick(TARGETS, 3),
            pick(SPACES, 1),
            pick(VERSIONS, 2),
            pick(ENDS, 1),
        )
    )
    fields = [b"Host: h\r\n"] if draw(st.integers(0, 3)) else []
    for _ in range(draw(st.integers(0, 5))):
        fields.append(b"".join((pick(NAMES, 11), pick(COLONS, 4), pick(VALUES, 15), pick(ENDS, 1))))
    head = line + b"".join(draw(st.permutations(fields))) + pick(ENDS, 1)
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(head) - 1))
        head = head[:place] + draw(st.binary(max_size=2)) + head[place + 1 :]
    return head


def by_h11(data: bytes) -> h11.Request:
    """What h11 alone reads."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def parsed(data: bytes, limits: HeadLimits, *, force_general: bool) -> RequestReceived | int | None:
    """The request, None, or the status of the refusal."""
    try:
        return parse_request(data, limits, force_general=force_general)
    except ProtocolError as refusal:
        error = refusal
    assert error.message.isascii()
    assert error.message.isprintable()
    assert 400 <= error.status <= 505
    return error.status


@settings(max_examples=1500)
@given(heads())
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
def test_what_strict_takes_h11_reads_alike(data: bytes) -> None:
    taken = strict.parse_head(data, BIG)
    if not isinstance(taken, RequestReceived):
        return
    theirs = by_h11(data)
    assert taken.method.encode() == theirs.method
    assert taken.target == theirs.target
    assert taken.version.encode() == theirs.http_version
    assert taken.headers == [(bytes(name), bytes(value)) for name, value in theirs.headers]
    lengths = [int(value) for name, value in theirs.headers if name == b"content-length"]
    assert (taken.content_length, taken.chunked) == (
        sum(lengths),
        (b"transfer-encoding", b"chunked") in list(theirs.headers),
    )
    assert data[taken.head_size - 4 : taken.head_size] == b"\r\n\r\n"


@settings(max_examples=1500)
@given(heads(), st.sampled_from([BIG, SMALL]))
def test_both_parsers_say_the_same(data: bytes, limits: HeadLimits) -> None:
    assert parsed(data, limits, force_general=False) == parsed(data, limits, force_general=True)


@settings(max_examples=1000)
@given(heads(), heads(), st.integers(0, 2**16), st.sampled_from([BIG, SMALL]), st.booleans())
def test_cuts_do_not_matter(
    first: bytes, second: bytes, seed: int, limits: HeadLimits, force_general: bool
) -> None:
    data = first + second
    whole = play([data], limits, force_general=force_general)
    assert play(cut(data, seed), limits, force_general=force_general) == whole
    single = [data[at : at + 1] for at in range(len(data))]
    assert play(single, limits, force_general=force_general) == whole


@settings(max_examples=500)
@given(heads(), st.integers(1, 4), st.sampled_from([BIG, SMALL, HeadLimits(40, 60, 3)]))
def test_what_adds_nothing_is_not_missed(data: bytes, step: int, limits: HeadLimits) -> None:
    """A reader that does not look while ``adds_nothing`` hears the same at the same byte."""
    for end in range(step, len(data) + step, step):
        before = data[: end - step]
        if before and adds_nothing(before, data[end - step : end], limits):
            assert parsed(data[:end], limits, force_general=False) is None
        if parsed(data[:end], limits, force_general=False) is not None:
            break


def test_a_line_that_goes_on_adds_nothing() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX: "
    assert adds_nothing(head, b"a", BIG)
    assert not any(adds_nothing(head, more, BIG) for more in (b"\r", b"\n", b"a\r\n"))
    assert not adds_nothing(head + b"\r", b"a", BIG), "CR without LF"
    assert not adds_nothing(b"G", b"E", BIG), "an empty line may be before it"
    assert not adds_nothing(b"\r\n", b"G", BIG), "its first byte was not seen"
    assert not adds_nothing(b"GET /aa", b"a", HeadLimits(7, 100, 3)), "the line becomes too long"
    assert not adds_nothing(head, b"a" * 60, HeadLimits(50, 80, 3)), "the head becomes too large"


@given(st.binary(max_size=300))
def test_garbage_raises_nothing_but_protocol_errors(data: bytes) -> None:
    whole = play([data], BIG, force_general=False)
    assert all(play(pieces, BIG, force_general=False) == whole for _, pieces in cuts(data))


@settings(max_examples=1000)
@given(st.sampled_from(load("valid")), st.data())
def test_a_changed_byte_changes_nothing_unnoticed(case: object, data: st.DataObject) -> None:
    """A valid request with one byte replaced: both parsers agree, and what strict takes h11 takes too."""
    original: bytes = case.data  # type: ignore[attr-defined]
    if not original:
        return
    place = data.draw(st.integers(0, len(original) - 1))
    changed = original[:place] + bytes([data.draw(st.integers(0, 255))]) + original[place + 1 :]
    assert parsed(changed, BIG, force_general=False) == parsed(changed, BIG, force_general=True)
    if isinstance(strict.parse_head(changed, BIG), RequestReceived):
        by_h11(changed)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_everywhere(byte: int) -> None:
    """Each byte in method, target, name and value: taken exactly where RFC 9110 and our choice of RFC 3986 allow it."""
    char = bytes([byte])
    visible = 0x21 <= byte <= 0x7E
    token = visible and char not in b'"(),/:;<=>?@[\\]{}'
    expected = {
        b"G%sT / HTTP/1.1\r\nHost: h\r\n\r\n": token,
        b"GET /a%sa HTTP/1.1\r\nHost: h\r\n\r\n": visible and char not in b'"#<>\\`{}%',
        b"GET /?a%sz HTTP/1.1\r\nHost: h\r\n\r\n": visible and char not in b'"#<>',
        b"GET / HTTP/1.1\r\nHost: h\r\nA%sB: c\r\n\r\n": token or byte == 0x3A,
        b"GET / HTTP/1.1\r\nHost: h\r\nA: b%sc\r\n\r\n": visible or byte >= 0x80 or char in b" \t",
        b"GET / HTTP/1.1\r\nHost: a%sb\r\n\r\n": visible and char not in b'"#<>\\^`{|}/?@[],:%',
    }
    for template, allowed in expected.items():
        for force_general in (False, True):
            outcome = parsed(template % char, BIG, force_general=force_general)
            assert isinstance(outcome, RequestReceived) == allowed, (template, force_general)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x16\x03\x01", "400: this looks like TLS; this port speaks plain HTTP"),
        (b"\0", "400: the request does not begin with a method"),
        (b"GET /\r\n", "400: the request line is not: method, one space, target, one space, version"),
        (b"GET / HTTP/1.1\r\n\r\n", "400: HTTP/1.1 without Host"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
            "400: white space between a header's name and its colon",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "400: a header line begins with white space (obsolete line folding)",
        ),
        (b"GET / HTTP/1.1\nHost: a\n\n", "400: a line ends in LF without CR"),
        (b"GET / HTTP/1.1\rHost: a\r\r", "400: CR without LF"),
        (b"PRI * HTTP/2.0\r\n\r\n", "505: this server speaks HTTP/1.1 and HTTP/1.0"),
        (b"CONNECT a:1 HTTP/1.1\r\n", "501: this server does not implement the method"),
        (b"GET /%s HTTP/1.1\r\n" % (b"a" * 9000), "414: the request line is longer than limits.line"),
    ],
)
def test_messages_say_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_request(data, BIG)
    assert str(caught.value) == message


def test_limits_of_zero_are_no_limits() -> None:
    limits = HeadLimits(0, 0, 0)
    head = b"GET /%s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"a" * 100_000, b"A: b\r\n" * 1000)
    for force_general in (False, True):
        request = parse_request(head, limits, force_general=force_general)
        assert request is not None
        assert len(request.headers) == 1001


def test_requests_compare_and_print() -> None:
    one, two = (parse_request(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % path, BIG) for path in (b"a", b"b"))
    assert one == parse_request(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", BIG)
    assert one != two
    assert one != "GET"
    assert "target=b'/a'" in repr(one)


def test_the_tables_of_names_are_right() -> None:
    for table in (names.PLAIN, names.SPECIAL):
        assert all(sent.lower() == lower and lower in table for sent, lower in table.items())
    assert not names.PLAIN.keys() & names.SPECIAL.keys()
    assert {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"expect",
        b"te",
        b"upgrade",
        *names.OF_PROXIES,
    } == set(names.SPECIAL.values())


@pytest.mark.skipif(sys._is_gil_enabled(), reason="constants are immortal on a free-threaded CPython")
def test_shared_tables_are_immortal(tmp_path: Path) -> None:
    """Loaded as an installed module is, from its byte code, the tables cost threads no shared reference counts."""
    folder = Path(names.__file__).parent
    loaded = {}
    for name in ("names", "tables"):
        compiled = py_compile.compile(str(folder / f"{name}.py"), str(tmp_path / f"{name}.pyc"), doraise=True)
        loader = importlib.machinery.SourcelessFileLoader(name, str(compiled))
        space: dict[str, object] = {}
        code = loader.get_code(name)
        assert code is not None
        exec(code, space)  # noqa: S102 - our own module, from its byte code
        loaded[name] = space
    dicts = [loaded[module][name] for module, name in TABLES]
    for table in dicts:
        assert isinstance(table, dict)
        assert all(sys._is_immortal(item) for pair in table.items() for item in pair)


def test_classes_of_bytes_are_literals() -> None:
    """A class that is computed would not be immortal; see grammar.py."""
    source = Path(general.__file__).parent / "grammar.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper():
            assert isinstance(node.value, ast.Constant) or node.target.id.startswith("_"), node.target.id
