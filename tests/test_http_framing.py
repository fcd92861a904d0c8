"""Where bodies end: the decision between Content-Length and chunks, and the decoders in every state and cut."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serverd.server.http import ProtocolError
from serverd.server.http.framing import (
    MAX_CHUNK_LINE,
    MAX_EXTENSIONS,
    ChunkedDecoder,
    SizedDecoder,
    body_framing,
)

from .support.corpus import cut, cuts

EXTENSIONS = [b"", b"", b";a", b";a=b", b';a="b;c"', b'; a = "\\""', b";a;b;c"]
TRAILERS = [b"", b"", b"A: b\r\n", b"Via: 3\r\nHost: x\r\n"]


def decode(pieces: list[bytes]) -> tuple[bytes, bytes | None] | int:
    """Payload, and what is behind the message (None if it is not complete); or the status of the refusal."""
    decoder = ChunkedDecoder()
    payload = b""
    rest = b""
    try:
        for piece in pieces:
            if decoder.complete:
                rest += piece
                continue
            payload += decoder.feed(piece)
    except ProtocolError as error:
        return error.status
    return payload, decoder.rest + rest if decoder.complete else None


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(payload, the same in chunks)"""
    wire = b""
    payload = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=6)):
        size = (b"%x" if draw(st.booleans()) else b"%X") % len(data)
        wire += draw(st.sampled_from([b"", b"0", b"000"])) + size + draw(st.sampled_from(EXTENSIONS))
        wire += b"\r\n" + data + b"\r\n"
        payload += data
    return payload, wire + b"0" + draw(st.sampled_from(EXTENSIONS)) + b"\r\n" + draw(
        st.sampled_from(TRAILERS)
    ) + b"\r\n"


@given(chunked(), st.binary(max_size=20), st.integers(0, 2**16))
def test_chunks_come_back_as_payload(body: tuple[bytes, bytes], behind: bytes, seed: int) -> None:
    payload, wire = body
    assert decode([wire + behind]) == (payload, behind)
    assert decode(cut(wire + behind, seed)) == (payload, behind)
    assert decode([wire[at : at + 1] for at in range(len(wire))]) == (payload, b"")
    assert decode([wire[:-1]]) == (payload, None)


@settings(max_examples=1000)
@given(chunked(), st.data())
def test_changed_chunks_have_one_verdict_and_h11_agrees_with_a_good_one(
    body: tuple[bytes, bytes], data: st.DataObject
) -> None:
    _, wire = body
    place = data.draw(st.integers(0, len(wire) - 1))
    wire = (
        wire[:place]
        + data.draw(st.sampled_from([b"", b"\r", b"\n", b";", b"0", b"f", b"\0", b"\r\n"]))
        + wire[place + 1 :]
    )
    whole = decode([wire])
    for _, pieces in cuts(wire):
        outcome = decode(list(pieces))
        assert outcome == whole
    if isinstance(whole, tuple) and whole[1] is not None:
        assert by_h11(wire) == whole[0]


def by_h11(wire: bytes) -> bytes:
    """The payload as h11 reads it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    payload = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            payload += event.data
    return payload


def test_a_whole_chunk_is_given_out_at_once() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"5\r\nhello\r\n") == b"hello"
    assert decoder.feed(b"3\r\nab") == b"ab"
    assert decoder.feed(b"c") == b"c"
    assert not decoder.complete
    assert decoder.feed(b"\r\n0\r\n\r\nGET") == b""
    assert decoder.complete
    assert decoder.rest == b"GET"


def test_every_place_where_input_may_stop() -> None:
    wire = b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for at in range(1, len(wire)):
        decoder = ChunkedDecoder()
        first = decoder.feed(wire[:at])
        assert not decoder.complete
        assert decoder.feed(b"") == b""
        assert first + decoder.feed(wire[at:]) == b"hello"
        assert decoder.complete
        assert decoder.rest == b""


@pytest.mark.parametrize(
    "decoder", [SizedDecoder(0), SizedDecoder(2), ChunkedDecoder()], ids=["0", "2", "chunked"]
)
def test_a_complete_decoder_takes_nothing(decoder: SizedDecoder | ChunkedDecoder) -> None:
    if not decoder.complete:
        decoder.feed(b"00" if isinstance(decoder, SizedDecoder) else b"0\r\n\r\n")
    assert decoder.complete
    with pytest.raises(RuntimeError, match="complete"):
        decoder.feed(b"x")


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 2**16))
def test_sized_body(data: bytes, length: int, seed: int) -> None:
    decoder = SizedDecoder(length)
    body = rest = b""
    for piece in cut(data, seed):
        if decoder.complete:
            rest += piece
        else:
            body += decoder.feed(piece)
    assert decoder.complete == (len(data) >= length)
    assert (body, decoder.rest + rest) == (data[:length], data[length:])


def test_extensions_are_bounded_over_the_whole_body() -> None:
    line = b"1;" + b"a" * (MAX_CHUNK_LINE - 2) + b"\r\nx\r\n"
    decoder = ChunkedDecoder()
    allowed = MAX_EXTENSIONS // (MAX_CHUNK_LINE - 1)
    assert decoder.feed(line * allowed) == b"x" * allowed
    with pytest.raises(ProtocolError, match="too many chunk extensions"):
        decoder.feed(line)


def test_limits_of_lines_are_the_callers() -> None:
    assert ChunkedDecoder(max_line=4).feed(b"5;ab\r\nhello\r\n") == b"hello"
    with pytest.raises(ProtocolError, match="too long"):
        ChunkedDecoder(max_line=4).feed(b"5;abc\r\n")
    decoder = ChunkedDecoder(max_trailer=8)
    decoder.feed(b"0\r\nA: b\r\n\r\n")
    assert decoder.complete
    with pytest.raises(ProtocolError) as caught:
        ChunkedDecoder(max_trailer=8).feed(b"0\r\nA: bc\r\n\r\n")
    assert caught.value.status == 431


def test_a_line_that_cannot_end_in_time_is_refused_at_once() -> None:
    with pytest.raises(ProtocolError, match="too large"):
        ChunkedDecoder(max_trailer=8).feed(b"0\r\nA: bcde")
    with pytest.raises(ProtocolError, match="too long"):
        ChunkedDecoder(max_line=4).feed(b"5;abc")


@pytest.mark.parametrize("behind", [b"B: c\r\n\r\n", b"\n"])
def test_a_full_trailer_section_is_refused_for_that_however_the_rest_comes(behind: bytes) -> None:
    """Found by fuzzing: with no room left, the end of the search for a bare LF became -1, "all but the last byte"."""
    with pytest.raises(ProtocolError, match="too large"):
        ChunkedDecoder(max_trailer=6).feed(b"0\r\nA: b\r\n" + behind)
    with pytest.raises(ProtocolError, match="too large"):
        ChunkedDecoder(max_trailer=6).feed(b"0\r\nA: b\r\n")


def test_a_long_run_of_backslashes_is_read_in_linear_time() -> None:
    """Would time out if the expression for extensions could backtrack."""
    decoder = ChunkedDecoder(max_line=100_000)
    with pytest.raises(ProtocolError):
        decoder.feed(b'5;a="' + b"\\\\" * 8_000 + b"\r\n")
    with pytest.raises(ProtocolError):
        ChunkedDecoder(max_line=100_000).feed(b"5" + b";a = b\t" * 2_000 + b"=\r\n")


@pytest.mark.parametrize(
    ("version", "lengths", "codings", "expected"),
    [
        ("1.1", [], [], (0, False)),
        ("1.0", [], [], (0, False)),
        ("1.1", [b"5"], [], (5, False)),
        ("1.1", [], [b"chunked"], (0, True)),
        ("1.1", [], [b"CHUNKED"], (0, True)),
        ("1.0", [], [b"chunked"], 400),
        ("1.1", [b"5"], [b"chunked"], 400),
        ("1.1", [b"5", b"5"], [], 400),
        ("1.1", [b"\xb2"], [], 400),
        ("1.1", [b"9" * 18], [], (10**18 - 1, False)),
        ("1.1", [b"9" * 19], [], 413),
        ("1.1", [], [b"gzip, chunked"], 501),
        ("1.1", [], [b"gzip"], 400),
    ],
)
def test_body_framing(version: str, lengths: list[bytes], codings: list[bytes], expected: object) -> None:
    try:
        outcome: object = body_framing(version, lengths, codings)
    except ProtocolError as error:
        outcome = error.status
    assert outcome == expected


@pytest.mark.parametrize("behind", [b"A", b"A\nb", b"\n", b"\nA: b\r\n", b"\r\n"])
def test_a_trailer_section_that_is_full_takes_nothing_more_however_it_comes(behind: bytes) -> None:
    """With no room left, a line feed in what came at once was found, and the status depended on the cuts."""
    body = b"0\r\n" + b"A: bc\r\n" * 4
    for pieces in ([body + behind], [bytes([byte]) for byte in body + behind], [body, behind]):
        decoder = ChunkedDecoder(max_trailer=28)
        with pytest.raises(ProtocolError) as caught:
            feed(decoder, pieces)
        assert caught.value.status == 431


def feed(decoder: ChunkedDecoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        decoder.feed(piece)
