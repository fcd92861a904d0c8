"""A session, bytes in and messages out: fragments, limits, text, closing, and what waits for the application."""

from __future__ import annotations

import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode
from websockets.frames import Frame as LibraryFrame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from serverd.server.websocket.frames import Message
from serverd.server.websocket.session import MOST_MESSAGES, TURN, Session

from .support.websocket import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, RSV2, TEXT, close_frame, cut, frame

LIMIT = 100_000


def session(limit: int = LIMIT, *, deflate: bool = False) -> Session:
    protocol = ServerProtocol(state=OPEN)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    return Session(protocol, limit)


def client(*, deflate: bool = False) -> ClientProtocol:
    protocol = ClientProtocol(parse_uri("ws://test/"), state=OPEN, max_size=None)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    return protocol


def taken(one: Session) -> list[Message]:
    """All that an application would take, coming back for more until there is no more."""
    found: list[Message] = []
    while True:
        while one.messages:
            found.append(one.take())
        one.feed(b"")
        if not one.messages and not one.more:
            assert one.waiting == 0
            return found


def answers(data: bytes, *, deflate: bool = False) -> list[tuple[int, bytes]]:
    """The frames that the session sent: opcode and payload."""
    reader = client(deflate=deflate)
    reader.receive_data(data)
    return [(int(f.opcode), bytes(f.data)) for f in reader.events_received() if isinstance(f, LibraryFrame)]


def deflated(data: bytes) -> bytes:
    """As the payload of a compressed message (RFC 7692 7.2.1)."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], bytes]:
    """Messages, and the same in frames, cut and with control frames between them as a client may."""
    messages: list[Message] = draw(
        st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=6)
    )
    data = b""
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        pieces = cut(payload, draw(st.lists(st.integers(1, 90), max_size=3))) or [b""]
        for number, piece in enumerate(pieces):
            opcode = CONT if number else TEXT if isinstance(message, str) else BINARY
            data += frame(opcode, piece, flags=FIN if number == len(pieces) - 1 else 0)
            if draw(st.booleans()):
                data += frame(draw(st.sampled_from([PING, PONG])), b"beat")
    return messages, data


@given(conversations(), st.lists(st.integers(1, 50), max_size=5))
def test_messages_arrive_whole_however_they_were_cut(
    sent: tuple[list[Message], bytes], sizes: list[int]
) -> None:
    messages, data = sent
    one = session()
    sent_back = b""
    got: list[Message] = []
    for piece in cut(data, sizes):
        sent_back += one.feed(piece)
        got += taken(one)
    assert got == messages
    assert not one.held
    assert not one.over
    pings = data.count(frame(PING, b"beat"))
    assert answers(sent_back) == [(PONG, b"beat")] * pings


@given(st.lists(st.one_of(st.text(max_size=3000), st.binary(max_size=3000)), max_size=5), st.booleans())
def test_messages_of_both_sides_are_compressed(messages: list[Message], small: bool) -> None:
    one, other = session(deflate=True), client(deflate=True)
    for message in messages:
        if isinstance(message, str):
            other.send_text(message.encode())
        else:
            other.send_binary(message)
    data = b"".join(other.data_to_send())
    got: list[Message] = []
    for piece in cut(data, [7] if small else []):
        one.feed(piece)
        got += taken(one)
    assert got == messages
    back = b"".join(one.text(m) if isinstance(m, str) else one.binary(m) for m in messages)
    other.receive_data(back)
    received = [f for f in other.events_received() if isinstance(f, LibraryFrame)]
    assert [bytes(f.data) for f in received] == [m.encode() if isinstance(m, str) else m for m in messages]


@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1002, frame(TEXT, b"x", mask=None)),
        (1002, frame(TEXT, b"x", flags=FIN | RSV2)),
        (1002, frame(TEXT, b"x", flags=FIN | RSV1)),
        (1002, frame(3, b"x")),
        (1002, frame(11)),
        (1002, frame(CONT, b"x")),
        (1002, frame(TEXT, b"x", flags=0) + frame(TEXT, b"x")),
        (1002, frame(PING, b"x" * 126)),
        (1002, frame(PING, b"x", flags=0)),
        (1002, close_frame(1005)),
        (1002, frame(8, b"\x03")),
        (1007, frame(TEXT, b"\xff")),
        (1007, frame(TEXT, b"\xed\xa0\x80")),
        (1007, frame(TEXT, b"ab\xc3")),
        (1007, frame(TEXT, b"\xc3", flags=0) + frame(CONT, b"(", flags=0)),
        (1007, frame(TEXT, b"\xc3", flags=0) + frame(CONT, b"")),
        (1007, frame(8, b"\x03\xe8\xff")),
        (1009, frame(TEXT, b"x" * (LIMIT + 1))),
        (1009, frame(BINARY, b"x" * (LIMIT + 200))[:20]),
        (1009, frame(TEXT, b"x" * LIMIT, flags=0) + frame(CONT, b"x", flags=0)),
    ],
)
def test_what_is_wrong_fails_the_connection(code: int, frames: bytes) -> None:
    for sizes in ([], [1] if len(frames) < 200 else [1000]):
        one = session()
        sent = b"".join(one.feed(piece) for piece in cut(frames, sizes))
        assert one.over
        assert one.end is not None
        assert one.end[0] == code
        (opcode, payload) = answers(sent)[-1]
        assert (opcode, int.from_bytes(payload[:2])) == (8, code)
        assert one.feed(frame(TEXT, b"more")) == b""
        assert not one.messages


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Frames that may be wrong in any way, and then perhaps no frames at all."""
    data = b""
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from([CONT, TEXT, BINARY, CLOSE, PING, PONG, draw(st.integers(0, 15))]))
        flags = draw(st.sampled_from([FIN, FIN, 0, FIN | RSV1, RSV1, draw(st.integers(0, 15)) << 4]))
        text = draw(st.text(max_size=20)).encode()
        payload = draw(st.sampled_from([text, text[:-1], deflated(text), b"\x03\xe8" + text, bytes(200)]))
        data += frame(
            opcode, payload, flags=flags, mask=draw(st.sampled_from([b"abcd", b"\0\0\0\0", b"abcd", None]))
        )
    return data + draw(st.binary(max_size=10))


@given(noise(), st.lists(st.integers(1, 20), max_size=5), st.booleans())
def test_the_verdict_does_not_depend_on_how_tcp_cut(data: bytes, sizes: list[int], deflate: bool) -> None:
    outcomes = []
    for pieces in ([data], cut(data, [1]), cut(data, sizes)):
        one = session(150, deflate=deflate)
        got: list[Message] = []
        sent = b""
        for piece in pieces:
            sent += one.feed(piece)
            while one.messages or one.more:
                if one.messages:
                    got.append(one.take())
                if not one.messages:
                    sent += one.feed(b"")
        outcomes.append((got, one.end, one.over, answers(sent)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_what_came_before_a_fault_is_the_application_s_first() -> None:
    one = session()
    assert one.feed(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(3)) == b""
    assert one.full
    assert one.take() == "a"
    assert one.feed(b"") == b""
    assert one.take() == "b"
    assert one.failing
    assert not one.over
    assert one.text("answer") == b"\x81\x06answer"
    assert answers(one.feed(b""))[0][1][:2] == (1002).to_bytes(2)


@pytest.mark.parametrize("fragments", [1, 2, 50])
def test_the_largest_message_and_the_first_that_is_too_large(fragments: int) -> None:
    size = LIMIT // fragments
    for extra, fits in ((0, True), (1, False)):
        one = session(size * fragments)
        for number in range(fragments):
            last = number == fragments - 1
            payload = b"x" * (size + extra * last)
            one.feed(frame(CONT if number else BINARY, payload, flags=FIN if last else 0))
            one.feed(frame(PING, b"p" * 125))  # does not count, even one byte before the limit
        assert taken(one) == ([b"x" * size * fragments] if fits else [])
        assert one.end is None if fits else one.end is not None and one.end[0] == 1009


def test_a_small_message_that_unpacks_to_a_large_one_is_refused_unseen() -> None:
    bomb = deflated(bytes(50 << 20))
    one = session(1 << 20, deflate=True)
    tracemalloc.start()
    try:
        one.feed(frame(BINARY, bomb, flags=FIN | RSV1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one.end is not None
    assert one.end[0] == 1009
    assert peak < 8 << 20


def test_a_message_of_100_000_fragments_costs_ten_times_one_of_10_000() -> None:
    def seconds(count: int) -> float:
        one = session(0)
        data = frame(TEXT, b"x", flags=0) + frame(CONT, b"x", flags=0) * (count - 2) + frame(CONT, b"x")
        began = time.thread_time()
        for piece in cut(data, [65536]):
            one.feed(piece)
            while one.more:
                one.feed(b"")
        spent = time.thread_time() - began
        assert taken(one) == ["x" * count]
        return spent

    few = min(seconds(10_000) for _ in range(3))
    assert seconds(100_000) < 30 * few


@pytest.mark.parametrize("kind", ["pings", "fragments"])
def test_many_frames_are_taken_in_turns(kind: str) -> None:
    one = session()
    small = frame(PING, b"x") if kind == "pings" else frame(CONT, b"x", flags=0)
    begin = b"" if kind == "pings" else frame(TEXT, b"x", flags=0)
    one.feed(begin)
    sent = one.feed(small * (TURN * 3))
    assert one.more
    sent += one.feed(b"")
    assert one.more
    sent += one.feed(small[:3])
    sent += one.feed(b"")
    assert not one.more, "half a frame is no work"
    assert one.held
    sent += one.feed(small[3:])
    assert len(answers(sent)) == (TURN * 3 + 1 if kind == "pings" else 0)


def test_no_more_is_read_than_the_application_takes() -> None:
    one = session()
    data = b"".join(frame(TEXT, b"%d" % number) for number in range(5 * MOST_MESSAGES))
    one.feed(data)
    # What the fast path finds in one piece is given out as it is: a receive buffer bounds it.
    one.feed(frame(TEXT, b"one more"))
    assert one.full
    assert one.held
    assert taken(one) == [str(number) for number in range(5 * MOST_MESSAGES)] + ["one more"]

    one = session(0, deflate=True)
    big = frame(BINARY, deflated(bytes(60_000)), flags=FIN | RSV1)
    one.feed(big * 100)
    assert one.waiting <= 120_000
    assert len(taken(one)) == 100


def test_the_client_closes() -> None:
    for code, seen in ((1000, 1000), (4321, 4321), (None, 1005)):
        one = session()
        sent = one.feed(frame(TEXT, b"bye") + close_frame(code, "why" if code else ""))
        assert one.over
        assert one.end == (seen, "why" if code else "")
        assert answers(sent) == [(8, b"" if code is None else code.to_bytes(2) + b"why")]
        assert taken(one) == ["bye"]


def test_the_client_closes_between_two_fragments() -> None:
    one = session()
    sent = one.feed(frame(TEXT, b"half", flags=0) + close_frame(1001))
    assert answers(sent) == [(8, (1001).to_bytes(2))]
    assert one.end == (1001, "")
    assert taken(one) == []


def test_the_server_closes() -> None:
    one = session()
    one.feed(frame(TEXT, b"not taken"))
    assert answers(one.close(1001, "going"))[0] == (8, (1001).to_bytes(2) + b"going")
    assert not one.over
    assert answers(one.feed(frame(PING, b"still there?"))) == [(PONG, b"still there?")]
    for _ in range(MOST_MESSAGES * 2):
        one.feed(frame(TEXT, b"thrown away"))
    assert not one.full
    one.feed(close_frame(1001))
    assert one.over
    assert taken(one) == ["not taken"]


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "x" * 124)]
)
def test_what_must_not_be_sent_is_refused(code: int, reason: str) -> None:
    one = session()
    with pytest.raises(ValueError, match=f"close code {code}"):
        one.close(code, reason)
    assert answers(one.close(CloseCode.GOING_AWAY, "x" * 123))[0][0] == 8


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        session().text("\ud800")


@pytest.mark.parametrize("size", [3, 300, 70_000])
def test_a_frame_counts_when_it_is_whole(size: int) -> None:
    """So that one which comes byte by byte is no sign of life."""
    one = session()
    data = frame(BINARY, bytes(size))
    one.feed(data[:1])
    one.feed(data[1:-1])
    assert one.frames == 0
    one.feed(data[-1:])
    assert one.frames == 1
    assert taken(one) == [bytes(size)]
    one.feed(frame(PING, b"x"))
    assert one.frames == 2
