"""Responses: what an application may say, how its body is framed, and that every client reads the same from it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverd.server.http.response import ResponseError, ResponseFramer, encode_head, error_response
from serverd.server.http.tables import STATUS_LINES

from .support.corpus_bytes import TCHAR, VALUE

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
PLAIN = (b"content-type", b"text/plain")


def send(
    *pieces: bytes,
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
    status: int = 200,
    headers: Any = (),
    date: bytes | None = None,
) -> tuple[bytes, ResponseFramer]:
    """A whole response of these pieces of body, and its framer."""
    framer = ResponseFramer(method, version, keep_alive)
    last = len(pieces) - 1
    wire = framer.start(status, headers, date, pieces[0], last > 0)
    for number, piece in enumerate(pieces[1:], 1):
        assert not framer.complete
        wire += framer.body(piece, number < last)
    assert framer.complete
    return wire, framer


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_the_usual_response() -> None:
    headers = [PLAIN, (b"content-length", b"5")]
    wire, framer = send(b"hello", headers=headers, date=DATE)
    assert (
        wire
        == head(b"HTTP/1.1 200 OK", b"content-type: text/plain", b"content-length: 5", b"date: " + DATE)
        + b"hello"
    )
    assert framer.keep_alive


@pytest.mark.parametrize(
    ("case", "lines", "body", "keep_alive"),
    [
        # One piece: a length is added.
        ({"pieces": [b"hello"]}, [b"content-length: 5"], b"hello", True),
        ({"pieces": [b""]}, [b"content-length: 0"], b"", True),
        (
            {"pieces": [b"hello"], "keep_alive": False},
            [b"content-length: 5", b"connection: close"],
            b"hello",
            False,
        ),
        # Several pieces: chunks for 1.1, until close for 1.0.
        (
            {"pieces": [b"hello", b" world"]},
            [b"transfer-encoding: chunked"],
            b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            True,
        ),
        ({"pieces": [b"", b"a", b"", b""]}, [b"transfer-encoding: chunked"], b"1\r\na\r\n0\r\n\r\n", True),
        (
            {"pieces": [b"x" * 26, b""]},
            [b"transfer-encoding: chunked"],
            b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n",
            True,
        ),
        ({"pieces": [b"a", b"b"], "version": "1.0"}, [], b"ab", False),
        # A length of the application: counted, never chunks.
        (
            {"pieces": [b"he", b"llo"], "headers": [(b"content-length", b"5")]},
            [b"content-length: 5"],
            b"hello",
            True,
        ),
        (
            {"pieces": [b"he", b"llo"], "headers": [(b"content-length", b"5")], "version": "1.0"},
            [b"content-length: 5", b"connection: keep-alive"],
            b"hello",
            True,
        ),
        (
            {"pieces": [b"hello", b""], "headers": [(b"Content-Length", b" 05 ")]},
            [b"content-length: 5"],
            b"hello",
            True,
        ),
        # HTTP/1.0.
        ({"pieces": [b"a"], "version": "1.0"}, [b"content-length: 1", b"connection: keep-alive"], b"a", True),
        ({"pieces": [b"a"], "version": "1.0", "keep_alive": False}, [b"content-length: 1"], b"a", False),
        ({"pieces": [b"a", b"b"], "version": "1.0", "keep_alive": False}, [], b"ab", False),
        # HEAD: as for GET, without the body.
        ({"pieces": [b"hello"], "method": "HEAD"}, [b"content-length: 5"], b"", True),
        ({"pieces": [b""], "method": "HEAD"}, [], b"", True),
        (
            {"pieces": [b""], "method": "HEAD", "headers": [(b"content-length", b"5")]},
            [b"content-length: 5"],
            b"",
            True,
        ),
        ({"pieces": [b"a", b"b"], "method": "HEAD"}, [b"transfer-encoding: chunked"], b"", True),
        (
            {"pieces": [b"a", b"b"], "method": "HEAD", "version": "1.0"},
            [b"connection: keep-alive"],
            b"",
            True,
        ),
        # No body by definition.
        ({"pieces": [b""], "status": 204}, [], b"", True),
        ({"pieces": [b"hello"], "status": 204, "headers": [(b"content-length", b"5")]}, [], b"", True),
        ({"pieces": [b"a", b"b"], "status": 204}, [], b"", True),
        ({"pieces": [b""], "status": 304}, [], b"", True),
        ({"pieces": [b"", b"x"], "status": 304}, [], b"", True),
        (
            {"pieces": [b"hello"], "status": 304, "headers": [(b"content-length", b"5")]},
            [b"content-length: 5"],
            b"",
            True,
        ),
        ({"pieces": [b"hello"], "status": 205}, [b"content-length: 0"], b"", True),
        # What an application says about the connection.
        (
            {"pieces": [b"a"], "headers": [(b"connection", b"close")]},
            [b"content-length: 1", b"connection: close"],
            b"a",
            False,
        ),
        (
            {"pieces": [b"a"], "headers": [(b"Connection", b"foo, Close")]},
            [b"content-length: 1", b"connection: foo, close"],
            b"a",
            False,
        ),
        ({"pieces": [b"a"], "headers": [(b"connection", b"keep-alive")]}, [b"content-length: 1"], b"a", True),
        (
            {"pieces": [b"a"], "headers": [(b"connection", b"keep-alive")], "keep_alive": False},
            [b"content-length: 1", b"connection: close"],
            b"a",
            False,
        ),
        (
            {"pieces": [b"a"], "headers": [(b"connection", b"close")], "version": "1.0"},
            [b"content-length: 1"],
            b"a",
            False,
        ),
        (
            {"pieces": [b""], "status": 426, "headers": [(b"upgrade", b"h2c"), (b"connection", b"upgrade")]},
            [b"upgrade: h2c", b"content-length: 0", b"connection: upgrade"],
            b"",
            True,
        ),
        (
            {
                "pieces": [b"a"],
                "headers": [(b"keep-alive", b"timeout=5"), (b"Proxy-Connection", b"x"), (b"TRAILER", b"a")],
            },
            [b"content-length: 1"],
            b"a",
            True,
        ),
        # It asks for chunks: it gets them where there are chunks, and never beside a length.
        (
            {"pieces": [b"a"], "headers": [(b"transfer-encoding", b"chunked")]},
            [b"transfer-encoding: chunked"],
            b"1\r\na\r\n0\r\n\r\n",
            True,
        ),
        (
            {"pieces": [b"a"], "headers": [(b"Transfer-Encoding", b"Chunked")], "version": "1.0"},
            [b"content-length: 1", b"connection: keep-alive"],
            b"a",
            True,
        ),
        (
            {"pieces": [b"a"], "headers": [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")]},
            [b"content-length: 1"],
            b"a",
            True,
        ),
        # Its own date, and names as it wrote them.
        (
            {"pieces": [b""], "headers": [(b"Date", b"x")], "date": DATE},
            [b"content-length: 0", b"date: x"],
            b"",
            True,
        ),
        (
            {"pieces": [b""], "headers": [(b"X-Own", b"a"), (b"x-own", b"b")]},
            [b"X-Own: a", b"x-own: b", b"content-length: 0"],
            b"",
            True,
        ),
    ],
)
def test_framing(case: dict[str, Any], lines: list[bytes], body: bytes, keep_alive: bool) -> None:
    wire, framer = send(*case.pop("pieces"), **case)
    status = case.get("status", 200)
    assert wire == head(STATUS_LINES[status][:-2], *lines) + body
    assert framer.keep_alive == keep_alive


def test_chunked_is_known_before_the_end() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    framer.start(200, [], None, b"a", True)
    assert framer.chunked
    assert not framer.complete
    assert framer.keep_alive


@pytest.mark.parametrize("pieces", [[b"hello!"], [b"hell"], [b""]])
def test_a_wrong_length_in_one_piece_sends_nothing(pieces: list[bytes]) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match="content-length announced 5"):
        framer.start(200, [(b"content-length", b"5")], DATE, pieces[0], False)
    assert framer.start(500, [], None, b"sorry", False).startswith(b"HTTP/1.1 500 ")
    assert framer.keep_alive


def test_too_much_at_the_start_of_a_stream_sends_nothing() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match="6 bytes where content-length announced 5"):
        framer.start(200, [(b"content-length", b"5")], DATE, b"hello!", True)


@pytest.mark.parametrize(
    ("piece", "more", "message"), [(b"lo!", True, "1 bytes longer"), (b"l", False, "1 bytes shorter")]
)
def test_a_wrong_length_in_a_stream_breaks_the_connection(piece: bytes, more: bool, message: str) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    framer.start(200, [(b"content-length", b"5")], None, b"hel", True)
    with pytest.raises(ResponseError, match=message):
        framer.body(piece, more)
    assert not framer.keep_alive
    assert not framer.complete
    with pytest.raises(ResponseError):
        framer.body(b"", False)


def test_calls_out_of_order() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match=r"start\(\) was not called"):
        framer.body(b"", False)
    framer.start(200, [], None, b"", False)
    with pytest.raises(ResponseError, match="complete"):
        framer.body(b"", False)
    with pytest.raises(ResponseError, match="started twice"):
        framer.start(200, [], None, b"", False)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([(b"a", b"b\r\nc: d")], "b'a' has a control byte"),
        ([(b"a", b"b\nc")], "b'a' has a control byte"),
        ([(b"a", b"b\rc")], "b'a' has a control byte"),
        ([(b"a", b"b\0")], "b'a' has a control byte"),
        ([(b"a", b"b\x7f")], "b'a' has a control byte"),
        ([(b"ok", b"fine"), (b"a", b"\x1b[0m")], "b'a' has a control byte"),
        ([(b"date", b"a\r\nb: c")], "b'date' has a control byte"),
        ([(b"connection", b"a\r\nb")], "b'connection' has a control byte"),
        ([(b"a b", b"c")], "b'a b' has a name that is not a token"),
        ([(b"a\r\nb", b"c")], "name that is not a token"),
        ([(b"a:", b"c")], "name that is not a token"),
        ([(b"", b"c")], "name that is not a token"),
        ([(b"\xe9", b"c")], "name that is not a token"),
        ([("a", b"c")], "name of response header 'a' is str"),
        ([(b"a", "c")], "value of response header b'a' is str"),
        ([(b"a", 5)], "value of response header b'a' is int"),
        ([(b"content-length", 5)], "value of response header b'content-length' is int"),
        ([(b"content-length", "5")], "value of response header b'content-length' is str"),
        ([(b"a", None)], "value of response header b'a' is NoneType"),
        ([(b"a",)], "header 0 is not a pair"),
        ([(b"a", b"b"), b"ab"], "header 1 is not a pair"),
        ([(b"a", b"b", b"c")], "header 0 is not a pair"),
        ([5], "header 0 is not a pair"),
        (None, "not a list of pairs"),
        ([(b"content-length", b"5"), (b"content-length", b"5")], "more than one content-length"),
        ([(b"content-length", b"+5")], "content-length"),
        ([(b"content-length", b"5_0")], "content-length"),
        ([(b"content-length", b"")], "content-length"),
        ([(b"content-length", b"9" * 19)], "content-length"),
        ([(b"transfer-encoding", b"gzip")], "transfer-encoding"),
        ([(b"transfer-encoding", b"gzip, chunked")], "transfer-encoding"),
    ],
)
def test_what_an_application_may_not_send(headers: Any, message: str) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match=message) as caught:
        framer.start(200, headers, DATE, b"hello", False)
    assert "\n" not in str(caught.value)
    assert framer.start(500, [], None, b"", False).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_place_of_a_response(byte: int) -> None:
    gap = bytes([byte])
    names = [((b"a" + gap, b"b"), byte in TCHAR), ((gap, b"b"), byte in TCHAR)]
    values = [((name, b"b" + gap + b"c"), byte in VALUE) for name in (b"a", b"date", b"connection")]
    for header, good in names + values:
        framer = ResponseFramer("GET", "1.1", True)
        if good:
            assert gap.lower() in framer.start(200, [header], None, b"", False).lower()
        else:
            with pytest.raises(ResponseError):
                framer.start(200, [header], None, b"", False)


@pytest.mark.parametrize("status", [0, 99, 1000, -1, "200", None, 200.5, True])
def test_bad_status(status: Any) -> None:
    with pytest.raises(ResponseError, match="status"):
        encode_head(status, [])


@pytest.mark.parametrize("status", [100, 101, 103, 199])
def test_an_interim_status_ends_nothing(status: int) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match="does not end a request"):
        framer.start(status, [], None, b"", False)
    assert framer.start(500, [], None, b"", False).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("option", [b"content-length", b"Transfer-Encoding", b"connection"])
def test_no_proxy_is_told_to_take_the_framing_away(option: bytes) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    head = framer.start(200, [(b"connection", option + b", x-own")], None, b"a", False)
    assert head == b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: x-own\r\n\r\na"


@pytest.mark.parametrize("body", ["text", None, 5, ["a"]])
def test_bad_body(body: Any) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match="the response body is"):
        framer.start(200, [], None, body, False)
    framer.start(200, [], None, b"a", True)
    with pytest.raises(ResponseError, match="the response body is"):
        framer.body(body, False)


def test_bytes_like_things_are_taken() -> None:
    headers = ((bytearray(b"a"), memoryview(b"b")), [b"content-length", bytearray(b"4")])
    wire, _ = send(bytearray(b"he"), memoryview(b"yo"), headers=iter(headers))  # type: ignore[arg-type]
    assert wire == head(b"HTTP/1.1 200 OK", b"a: b", b"content-length: 4") + b"heyo"


def test_status_lines_are_those_of_the_registry() -> None:
    assert {code: line.decode() for code, line in STATUS_LINES.items()} == {
        code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n" for code in HTTPStatus
    }
    assert encode_head(299, []) == b"HTTP/1.1 299 Unknown\r\n\r\n"


def test_encode_head_with_extra_lines() -> None:
    wire = encode_head(101, [(b"upgrade", b"websocket")], b"connection: upgrade\r\n")
    assert wire == head(b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: upgrade")


@pytest.mark.parametrize(("message", "body"), [("no", b"no\n"), ("caf\xe9\r\nx", b"caf\\xe9 x\n")])
def test_error_response(message: str, body: bytes) -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(error_response(431, message, date=DATE))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == 431
    assert dict(response.headers) == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"%d" % len(body),
        b"connection": b"close",
        b"date": DATE,
    }
    data = client.next_event()
    assert isinstance(data, h11.Data)
    assert bytes(data.data) == body
    assert isinstance(client.next_event(), h11.EndOfMessage)


def around(*pieces: bytes, **case: Any) -> tuple[bytes, ResponseFramer]:
    """As ``send``, with pieces that the framer never sees."""
    framer = ResponseFramer(
        case.get("method", "GET"), case.get("version", "1.1"), case.get("keep_alive", True)
    )
    last = len(pieces) - 1
    wire = b""
    for number, piece in enumerate(pieces):
        if number == 0:
            before, wanted, after = framer.start_around(
                case.get("status", 200), case.get("headers", ()), None, len(piece), last > 0
            )
        else:
            before, wanted, after = framer.around(len(piece), number < last)
        wire += before + (piece if wanted else b"") + after
    assert framer.complete
    return wire, framer


@pytest.mark.parametrize("length", [None, b"5", b"6", "chunked"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("status", [200, 204, 304])
@pytest.mark.parametrize(
    "pieces", [[b"hello"], [b""], [b"he", b"llo"], [b"", b"hello", b""], [b"hello", b"!"]]
)
def test_a_piece_that_is_not_in_memory_is_framed_as_one_that_is(
    length: bytes | str | None, method: str, version: str, status: int, pieces: list[bytes]
) -> None:
    headers = []
    if isinstance(length, bytes):
        headers = [(b"content-length", length)]
    elif length:
        headers = [(b"transfer-encoding", b"chunked")]
    case: dict[str, Any] = {"method": method, "version": version, "status": status, "headers": headers}
    said: list[object] = []
    for way in (send, around):
        try:
            wire, framer = way(*pieces, **case)
            said.append((wire, framer.keep_alive))
        except ResponseError as refusal:
            said.append(str(refusal))
    assert said[0] == said[1]


def test_pieces_that_are_not_in_memory_out_of_order() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    with pytest.raises(ResponseError, match=r"start\(\) was not called"):
        framer.around(1, False)
    framer.start_around(200, [], None, 5, False)
    with pytest.raises(ResponseError, match="complete"):
        framer.around(1, False)
    with pytest.raises(ResponseError, match="started twice"):
        framer.start_around(200, [], None, 5, False)


def test_trailers_end_a_body_in_chunks() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    headers = [(b"Content-Length", b"5"), (b"Trailer", b"x-sum")]
    wire = framer.start(200, headers, None, b"he", True, True) + framer.body(b"llo", True)
    assert not framer.complete
    wire += framer.trailers([(b"x-sum", b"5"), (b"Server-Timing", b"db;dur=1")])
    assert wire == (
        head(b"HTTP/1.1 200 OK", b"trailer: x-sum", b"transfer-encoding: chunked")
        + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 5\r\nServer-Timing: db;dur=1\r\n\r\n"
    )
    assert framer.complete
    assert framer.keep_alive
    with pytest.raises(ResponseError, match="complete"):
        framer.trailers([])


def test_no_trailers_at_all_end_it_too() -> None:
    framer = ResponseFramer("GET", "1.1", True)
    wire = framer.start(200, [], None, b"a", True, True) + framer.trailers([])
    assert wire.endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")
    assert framer.complete


@pytest.mark.parametrize("case", [{"method": "HEAD"}, {"status": 204}, {"status": 304}, {"version": "1.0"}])
def test_trailers_without_a_place_go_nowhere(case: dict[str, Any]) -> None:
    framer = ResponseFramer(case.get("method", "GET"), case.get("version", "1.1"), True)
    wire = framer.start(case.get("status", 200), [], None, b"", True, True)
    assert wire.endswith(b"\r\n\r\n")
    assert framer.trailers([(b"x-sum", b"5")]) == b""
    assert framer.complete


@pytest.mark.parametrize(("piece", "message"), [(b"lo!", "1 bytes longer"), (b"l", "1 bytes shorter")])
def test_a_length_that_trailers_replaced_is_still_held(piece: bytes, message: str) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    framer.start(200, [(b"content-length", b"5")], None, b"hel", True, True)

    def end() -> None:
        framer.body(piece, True)
        framer.trailers([])

    with pytest.raises(ResponseError, match=message):
        end()
    assert not framer.complete


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([(b"Content-Length", b"5")], "b'Content-Length' means nothing after the body"),
        ([(b"transfer-encoding", b"chunked")], "means nothing after the body"),
        ([(b"host", b"a")], "means nothing after the body"),
        ([(b"set-cookie", b"a=b")], "means nothing after the body"),
        ([(b"authorization", b"a")], "means nothing after the body"),
        ([(b"trailer", b"a")], "means nothing after the body"),
        ([(b"x", b"a\r\nb: c")], "trailer b'x' has a control byte"),
        ([(b"x y", b"a")], "trailer b'x y' has a name that is not a token"),
        ([("x", b"a")], "name of response trailer 'x' is str"),
        ([(b"x", "a")], "value of response trailer b'x' is str"),
        ([b"x"], "response trailer 0 is not a pair"),
        (None, "the response trailers are None"),
    ],
)
def test_what_may_not_be_a_trailer(fields: Any, message: str) -> None:
    framer = ResponseFramer("GET", "1.1", True)
    framer.start(200, [], None, b"a", True, True)
    with pytest.raises(ResponseError, match=message):
        framer.trailers(fields)
    assert not framer.complete


def test_the_field_trailer_is_dropped_when_none_come() -> None:
    wire, _ = send(b"a", headers=[(b"trailer", b"x-sum"), (b"Trailer", b"b")])
    assert b"railer" not in wire


NAMES = st.sampled_from(
    [b"content-type", b"X-Own", b"set-cookie", b"vary", b"a b", b"", b"x\r\n", b"connection"]
)
VALUES = st.one_of(st.binary(max_size=6), st.sampled_from([b"close", b"a", b"b\r\nc: d"]))


@settings(max_examples=500)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    version=st.sampled_from(["1.1", "1.0"]),
    keep_alive=st.booleans(),
    status=st.sampled_from([200, 201, 204, 304, 404, 500]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=3),
    pieces=st.lists(st.binary(max_size=8), min_size=1, max_size=4),
    announce=st.sampled_from([None, 0, 1, -1, "chunked"]),
)
def test_every_client_reads_what_the_application_said(
    method: str,
    version: str,
    keep_alive: bool,
    status: int,
    headers: list[tuple[bytes, bytes]],
    pieces: list[bytes],
    announce: int | str | None,
) -> None:
    """Whatever comes out is read by h11 as exactly this response, and it knows where the next one begins."""
    size = sum(map(len, pieces))
    if announce == "chunked":
        headers = [*headers, (b"transfer-encoding", b"chunked")]
    elif isinstance(announce, int) and size + announce >= 0:
        headers = [*headers, (b"content-length", b"%d" % (size + announce))]
    try:
        wire, framer = send(
            *pieces, method=method, version=version, keep_alive=keep_alive, status=status, headers=headers
        )
    except ResponseError:
        return
    read_status, read_headers, body, reusable = by_h11(wire, method, version)
    assert read_status == status
    assert reusable == framer.keep_alive
    assert body == (b"" if method == "HEAD" or status in (204, 304) else b"".join(pieces))
    ours = {b"content-length", b"transfer-encoding", b"connection"}
    assert [(name.lower(), value.strip(b" \t")) for name, value in headers if name.lower() not in ours] == [
        header for header in read_headers if header[0] not in ours
    ]


def by_h11(wire: bytes, method: str, version: str) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """Status, headers, body, and whether the connection may be used again; all of ``wire`` must be used."""
    client = h11.Connection(h11.CLIENT)
    # h11 asks only as HTTP/1.1; whether a client of 1.0 would keep the connection is worked out below.
    client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    assert client.trailing_data == (b"", True)
    names = dict(response.headers)
    delimited = (
        method == "HEAD"
        or response.status_code in (204, 304)
        or b"content-length" in names
        or b"transfer-encoding" in names
    )
    options = [option.strip() for option in names.get(b"connection", b"").lower().split(b",")]
    wanted = b"close" not in options if version == "1.1" else b"keep-alive" in options
    headers = [(bytes(name), bytes(value)) for name, value in response.headers]
    return response.status_code, headers, body, delimited and wanted
