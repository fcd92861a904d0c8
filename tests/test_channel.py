"""The channel: what is sent arrives as it was, whole, and the end of the other side is seen."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from serverd.server.channel import (
    MAX_MESSAGE,
    BootFailed,
    Channel,
    ChannelError,
    Drain,
    Drained,
    LameDuck,
    Message,
    Ready,
    Stop,
    decode,
    encode,
)

MESSAGES: list[Message] = [
    Ready(pid=7, threads=4, gil=True, gil_culprit="_old", seconds=0.25, app="notes:app"),
    BootFailed(stage="import", exit_code=4, error="app: no module named 'x'", traceback="Traceback…\n  é"),
    Drained(requests=12, cut=["GET /slow (3.1 s)"]),
    Drain(graceful=30.0, final=True, close_idle=False),
    Stop(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    above, below = Channel.pair()
    assert below.send(message)
    assert above.recv() == message
    above.close()
    below.close()


def test_the_end_of_the_other_side_is_none_and_sending_to_it_is_false() -> None:
    above, below = Channel.pair()
    below.close()
    assert above.recv() is None
    assert not above.send(Stop())
    above.close()


def test_a_long_traceback_loses_its_middle_and_fits() -> None:
    long = "".join(chr(0x1F600 + n % 50) for n in range(100_000))
    packet = encode(BootFailed("import", 4, long, long))
    assert len(packet) <= MAX_MESSAGE
    message = decode(packet)
    assert isinstance(message, BootFailed)
    assert message.traceback.startswith(long[:100])
    assert message.traceback.endswith(long[-100:])
    above, below = Channel.pair()
    assert below.send(BootFailed("import", 4, long, long))
    received = above.recv()
    above.close()
    below.close()
    assert received == message


def test_a_text_that_is_no_unicode_still_arrives() -> None:
    message = decode(encode(Drained(1, ["GET /\udcff"])))
    assert isinstance(message, Drained)
    assert message.cut == ["GET /\udcff"]


@pytest.mark.parametrize(
    "packet", [b"", b"{", b"[]", b"{}", b'{"type":"Other"}', b'{"type":"Drain"}', b"\xff"]
)
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(ChannelError, match="not a message"):
        decode(packet)


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert decode(b'{"type":"Stop","reason":"new"}') == Stop()


@pytest.mark.parametrize(
    "packet",
    [
        b'{"type":"Drained","requests":1,"cut":5}',
        b'{"type":"Drained","requests":1,"cut":[5]}',
        b'{"type":"Drained","requests":true,"cut":[]}',
        b'{"type":"Worn","reason":["a"],"words":""}',
        b'{"type":"BootFailed","stage":"x","exit_code":3,"error":{},"traceback":""}',
        b'{"type":"BootFailed","stage":"x","exit_code":3,"error":"","traceback":7}',
        b'{"type":["Ready"]}',
        b"[" * 100_000,
        b'{"type":"Worn","reason":"a"}',
        b"7",
    ],
)
def test_a_field_of_another_type_is_no_message(packet: bytes) -> None:
    """What a child sends goes into the master's books: it must be what it looks like."""
    with pytest.raises(ChannelError):
        decode(packet)


def test_every_message_survives_the_way() -> None:
    ready = Ready(7, 4, False, None, 1, "app")
    assert decode(encode(ready)) == ready


class Short:
    """A socket for whose packets the kernel has no memory, so many times."""

    def __init__(self, times: int, *, waits: bool) -> None:
        self.left = times
        self.packets: list[bytes] = []
        self._waits = waits

    def gettimeout(self) -> float | None:
        return None if self._waits else 0.0

    def send(self, packet: bytes, flags: int) -> int:
        if self.left:
            self.left -= 1
            raise OSError(errno.ENOBUFS, "No buffer space available")
        self.packets.append(packet)
        return len(packet)


def test_what_a_child_says_is_not_lost_for_want_of_memory() -> None:
    ready = Ready(7, 4, False, None, 1, "app")
    sock: Any = Short(2, waits=True)
    assert Channel(sock).send(ready)
    assert sock.packets == [encode(ready)]


def test_the_master_does_not_wait_for_memory_and_says_it_later_in_order() -> None:
    sock: Any = Short(2, waits=False)
    channel = Channel(sock)
    assert channel.send(LameDuck())
    assert channel.send(Stop())
    assert sock.packets == []
    assert not channel.flush()
    assert channel.flush()
    assert sock.packets == [encode(LameDuck()), encode(Stop())]
