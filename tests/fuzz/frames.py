"""WebSocket: frames of a client through the fast path, the session and the library, whole and cut.

Promises: ``examine`` raises when what the session gives out or sends depends on how the bytes came, and when the fast
path reads other messages than the library. Any thread may call it.
"""

from __future__ import annotations

import re
from typing import Final

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from serverd.server.websocket.frames import Message, frame_size, read_messages
from serverd.server.websocket.session import Session

from ..support.websocket import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    close_frame,
    frame,
)
from .mutate import Rnd, mutate, pick
from .reading import Finding
from .requests import BATCH

LIMIT: Final = 400
_NUMBER: Final = re.compile(r"[0-9]+")
_TEXTS: Final = (b"", b"a", b"hello", "é€😀".encode(), b"x" * 125, b"x" * 126, b"y" * 400, b"z" * 401)
_BAD_TEXTS: Final = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"ab\x80")
_CODES: Final = (None, 1000, 1001, 1002, 1005, 1006, 1015, 2999, 3000, 4999, 5000, 0)
_LENGTHS: Final = (
    b"\x81\xfe\x00\x7d",
    b"\x81\xff" + b"\0" * 8,
    b"\x82\xff\x80" + b"\0" * 7,
    b"\x81\x05hello",
    b"\x89\xfe\x00\x7e",
)


def batch(rnd: Rnd) -> list[bytes]:
    """BATCH inputs."""
    return [make(rnd) for _ in range(BATCH)]


def make(rnd: Rnd) -> bytes:
    """Some frames, most of them in order."""
    data = b""
    doubt = 0.0 if rnd() < 0.6 else 0.12
    for _ in range(1 + int(rnd() * 5)):
        kind = rnd()
        if kind < doubt:
            data += pick(rnd, _LENGTHS)
        elif kind > 0.95:
            data += close_frame(pick(rnd, _CODES) if doubt else 1000, pick(rnd, ("", "bye", "r" * 123)))
        else:
            data += _message(rnd, doubt)
    if rnd() < 0.2:
        data = mutate(rnd, data)
    return data


def _message(rnd: Rnd, doubt: float) -> bytes:
    """One message, in one frame or in fragments with control frames between them."""
    payload = pick(rnd, _BAD_TEXTS if rnd() < doubt else _TEXTS)
    opcode = pick(rnd, (TEXT, BINARY)) if rnd() >= doubt else pick(rnd, (CONT, 3, 11, PING, PONG, CLOSE))
    mask: bytes | None = bytes(int(rnd() * 256) for _ in range(4))
    if rnd() < doubt / 2:
        mask = None
    flags = FIN if rnd() >= doubt / 2 else FIN | pick(rnd, (RSV1, RSV2, RSV3))
    if rnd() < 0.6:
        return frame(opcode, payload, flags=flags, mask=mask)
    at = int(rnd() * (len(payload) + 1))
    between = frame(pick(rnd, (PING, PONG)), pick(rnd, (b"", b"beat", b"p" * 125))) if rnd() < 0.5 else b""
    return (
        frame(opcode, payload[:at], flags=flags & ~FIN, mask=mask)
        + between
        + frame(CONT, payload[at:], mask=mask)
    )


def examine(data: bytes, rnd: Rnd) -> list[str]:
    """Hold these bytes to everything; what became of them."""
    left = _compare_with_library(data)
    whole = _through_session([data])
    size = len(data)
    if size > 1:
        if rnd() < 0.03:
            pieces = [data[at : at + 1] for at in range(size)]
        else:
            places = sorted({1 + int(rnd() * (size - 1)) for _ in range(1 + int(rnd() * rnd() * 6))})
            pieces = [data[start:end] for start, end in zip((0, *places), (*places, size), strict=True)]
        told = _through_session(pieces)
        if told != whole:
            raise Finding(f"cut into {[len(piece) for piece in pieces]} it is {told}, whole it is {whole}")
    return _way(whole, left)


def _way(whole: tuple[list[Message], bytes, tuple[int, str] | None, bool], left: bytes) -> list[str]:
    messages, _, end, failed = whole
    if end is None:
        first = "goes on"
    else:
        first = f"failed with {end[0]} {_NUMBER.sub('N', end[1])}" if failed else "closed by the client"
    return [first, *(["fast path took all"] if not left else []), *["message"] * len(messages)]


def examine_every_cut(data: bytes) -> list[str]:
    """The same for every place at which the bytes can be cut."""
    left = _compare_with_library(data)
    whole = _through_session([data])
    cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
    for pieces in ([data[at : at + 1] for at in range(len(data))], *cuts):
        told = _through_session(pieces)
        if told != whole:
            raise Finding(f"cut into {[len(piece) for piece in pieces]} it is {told}, whole it is {whole}")
    return _way(whole, left)


def _compare_with_library(data: bytes) -> bytes:
    """What the fast path leaves of the bytes; what it takes the library reads alike. Raises Finding."""
    messages: list[Message] = []
    at = read_messages(data, 0, LIMIT, messages)
    if at:
        protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
        protocol.receive_data(data[:at])
        theirs: list[Message] = []
        for event in protocol.events_received():
            if not isinstance(event, Frame) or not event.fin:
                raise Finding(f"the fast path took {messages}, the library {event}")
            theirs.append(bytes(event.data).decode() if event.opcode is Opcode.TEXT else bytes(event.data))
        if theirs != messages or protocol.reader.buffer:
            raise Finding(f"the fast path took {messages}, the library {theirs}")
    if at < len(data):
        frame_size(data, at)
    return data[at:]


def _through_session(pieces: list[bytes]) -> tuple[list[Message], bytes, tuple[int, str] | None, bool]:
    """Messages, what was sent, how it ended, and whether the client was at fault, of an application that takes
    all that there is after each piece."""
    session = Session(ServerProtocol(state=OPEN), LIMIT)
    messages: list[Message] = []
    sent = b""
    for piece in pieces:
        sent += session.feed(piece)
        while session.messages or session.held:
            before = len(messages), len(sent)
            while session.messages:
                messages.append(session.take())
            sent += session.feed(b"")
            if (len(messages), len(sent)) == before and not (session.messages or session.more):
                break
        if session.over:
            break
    return messages, sent, session.end, session.failed
