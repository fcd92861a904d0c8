"""Frames: what the fast path reads is what the library reads, and it takes nothing else."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from serverd.server.websocket.frames import Message, binary_frame, frame_size, read_messages, text_frame

from .support.websocket import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, RSV2, TEXT, frame

LIMIT = 1 << 20
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65535, 65536, 70000]))


def read(data: bytes, limit: int = LIMIT) -> tuple[list[Message], bytes]:
    """What the fast path takes, and what it leaves."""
    messages: list[Message] = []
    at = read_messages(data, 0, limit, messages)
    return messages, data[at:]


def read_by_library(data: bytes) -> tuple[list[Message], bytes]:
    """Whole messages as the library reads them, and what it holds of the next frame."""
    protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
    protocol.receive_data(data)
    messages: list[Message] = []
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        assert event.fin
        assert event.opcode in (Opcode.TEXT, Opcode.BINARY)
        messages.append(bytes(event.data).decode() if event.opcode is Opcode.TEXT else bytes(event.data))
    return messages, bytes(protocol.reader.buffer)


@st.composite
def some_frames(draw: st.DrawFn) -> bytes:
    """A few frames of a client, most of them in order, and perhaps only the beginning of the last."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        opcode = draw(st.sampled_from([TEXT, TEXT, BINARY, BINARY, CONT, CLOSE, PING, PONG, 3, 11]))
        flags = draw(st.sampled_from([FIN, FIN, FIN, 0, FIN | RSV1, FIN | RSV2]))
        mask = draw(st.one_of(st.binary(min_size=4, max_size=4), st.just(b"\0\0\0\0"), st.none()))
        payload = draw(st.one_of(st.text(max_size=60).map(str.encode), st.binary(max_size=60)))
        if draw(st.booleans()):
            payload = payload.ljust(draw(SIZES), b"x")
        parts.append(frame(opcode, payload, flags=flags, mask=mask))
    data = b"".join(parts)
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@given(some_frames())
def test_what_is_taken_is_what_the_library_reads(data: bytes) -> None:
    messages, left = read(data)
    assert read_by_library(data[: len(data) - len(left)]) == (messages, b"")


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=5), st.binary(min_size=4, max_size=4))
def test_plain_frames_are_all_taken(sent: list[Message], mask: bytes) -> None:
    data = b"".join(
        frame(TEXT, item.encode(), mask=mask) if isinstance(item, str) else frame(BINARY, item, mask=mask)
        for item in sent
    )
    assert read(data) == (sent, b"")


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x", mask=None),
        frame(TEXT, b"x", flags=0),
        frame(TEXT, b"x", flags=FIN | RSV1),
        frame(TEXT, b"\xff"),
        frame(TEXT, b"x" * 65536),
        frame(TEXT, b"x" * 1001),
        frame(PING, b"x"),
        frame(CLOSE),
        frame(3, b"x"),
        frame(TEXT, b"x" * 200)[:7],
        frame(TEXT, b"x" * 20)[:-1],
        b"\x81",
    ],
)
def test_everything_else_is_left_in_place(data: bytes) -> None:
    assert read(data, limit=1000) == ([], data)
    assert read(frame(TEXT, b"before") + data, limit=1000) == (["before"], data)


@given(SIZES)
def test_frames_are_those_that_the_library_makes(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert binary_frame(payload) == Frame(Opcode.BINARY, payload).serialize(mask=False)


@given(SIZES, st.booleans())
def test_the_size_of_a_frame_is_known_from_its_head(size: int, masked: bool) -> None:
    data = frame(TEXT, b"x" * size, mask=b"abcd" if masked else None)
    head = len(data) - size
    for at in range(head):
        assert frame_size(data[:at], 0) == 0
    assert frame_size(data[:head], 0) == len(data)
    assert frame_size(b"..." + data, 3) == len(data)


def test_the_library_still_is_what_the_session_takes_it_for() -> None:
    """Attributes that it reads or sets: they have no underscore, but no release note would speak of them either."""
    protocol = ServerProtocol(state=OPEN, max_size=1)
    assert isinstance(protocol.parser, Generator)
    assert protocol.current_size is None
    assert protocol.max_message_size == 1
    assert protocol.eof_sent is False
    assert (protocol.close_rcvd, protocol.close_sent, protocol.parser_exc) == (None, None, None)
    assert protocol.writes == []
