"""One open WebSocket as bytes: what arrives becomes messages, what is sent becomes frames. No sockets, no clocks.

The protocol is the ``websockets`` library's (``ServerProtocol``, without its I/O): fragments, control frames, the
closing handshake, permessage-deflate. This module puts messages together, checks text, and lets ``frames`` take the
plain frames that arrive while the library stands between two messages. Promises: a message of any number of fragments
costs time and memory in proportion to its bytes, and no more than ``limit`` of them are kept (RFC 6455 10.4); text
that is not UTF-8 fails the connection as soon as a fragment shows it (8.1); the library always gets whole heads, so
it is known at each moment whether it stands between two frames; a fault of the client is answered only when the
application has taken what came before it, as only luck decides whether both arrive in one piece. Refuses: to wait. What
is left when enough messages wait (``MOST_BYTES``, ``MOST_MESSAGES``), or after so many frames that others should have
their turn (``TURN``, then ``more``), stays here until ``feed`` is called again.

Belongs to one thread.
"""

from __future__ import annotations

import codecs
from collections import deque
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import BINARY, CLOSE, CONT, TEXT, CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from .frames import Message, binary_frame, frame_size, read_messages, text_frame

# So much may wait for the application before no more is read. A full receive buffer of small messages is about 10,000;
# the second number is for those that are smaller than what is kept of them.
MOST_BYTES: Final = 64 * 1024
MOST_MESSAGES: Final = 256
# Frames that the library takes at a time: 7 us each on a machine at rest, so that a receive buffer of 10,000 pings
# would keep every other WebSocket of the child waiting for 70 ms.
TURN: Final = 64
# What the library may take beyond ``limit`` while a message comes in fragments: it counts control frames between them
# against it (125 bytes, RFC 6455 5.5), and would refuse a ping near the end of a large message. Counted here too.
_CONTROL: Final = 125
_UNLIMITED: Final = 1 << 62

_Utf8 = codecs.getincrementaldecoder("utf-8")


class Session:
    """See the module. ``protocol`` has agreed on its extensions; ``limit``: bytes of the largest message, 0: any.

    messages: what has arrived and was not taken; waiting: its size. failed: for a fault of the client. more: there is
    work for another ``feed``, which may be that of b"", and should be soon.
    """

    __slots__ = (
        "_decoder",
        "_end",
        "_held",
        "_last",
        "_limit",
        "_missing",
        "_parts",
        "_plain",
        "_protocol",
        "failed",
        "frames",
        "messages",
        "more",
        "waiting",
    )

    def __init__(self, protocol: ServerProtocol, limit: int) -> None:
        self._protocol = protocol
        self._limit = limit or _UNLIMITED
        protocol.max_message_size = limit or None
        self._plain = not protocol.extensions
        self._held = b""  # received and not looked at
        self._end: tuple[int, str] | None = None
        self.failed = False
        self._last = b""  # the close frame of a failed connection, until the application has what came before
        self._missing = 0  # bytes of a frame whose beginning the library has
        self.frames = 0  # grows with each frame that has come whole, perhaps by one for several
        self._parts: bytearray | None = None  # of a message whose last fragment has not come
        self._decoder: codecs.IncrementalDecoder | None = None  # for its text; None if it is binary
        self.more = False
        self.messages: deque[Message] = deque()
        self.waiting = 0  # their length

    # -- what the client sends -----------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, while ``messages`` has room; what is to be sent in answer. b"": go on with the rest."""
        if self._held:
            data = self._held + data
        at, size = 0, len(data)
        protocol = self._protocol
        turns = TURN
        while at < size and not self.full and not protocol.eof_sent and turns:
            if not self._missing and self._parts is None and protocol.state is OPEN:
                at = self._read_plain(data, at)
                if at == size or self.full:
                    break
            before = at
            at = self._read_one(data, at)
            if at == before:
                break
            turns -= 1
        self.more = not turns and at < size
        self._held = data[at:]
        sent = self._written() if protocol.writes else b""
        if self.failed and self.messages:
            self._last += sent
            return b""
        return self._last_words() if self._last else sent

    @property
    def full(self) -> bool:
        """Whether so much waits for the application that no more should be read.

        Never once our close frame is sent: nothing is added any more, and only the client's close frame is looked for.
        """
        much = self.waiting >= MOST_BYTES or len(self.messages) >= MOST_MESSAGES
        return (much and self._protocol.close_sent is None) or bool(self._last and self.messages)

    @property
    def held(self) -> bool:
        """Whether bytes are left that were not looked at."""
        return bool(self._held or self._last)

    @property
    def failing(self) -> bool:
        """Whether the client is to be told of its fault as soon as the application comes back for more."""
        return bool(self._last)

    def take(self) -> Message:
        """The next message. Raises IndexError when there is none."""
        message = self.messages.popleft()
        self.waiting -= len(message)
        return message

    def _read_plain(self, data: bytes, at: int) -> int:
        found: list[Message] = []
        at = read_messages(data, at, self._limit, found)
        if found:
            self.frames += 1
        self.messages += found
        # Characters, not bytes: as good a measure of what waits, and it needs no second look at each.
        self.waiting += sum(map(len, found))
        return at

    def _read_one(self, data: bytes, at: int) -> int:
        """Let the library have one frame, or what there is of it, once its head is complete."""
        size = self._missing or frame_size(data, at)
        piece = data[at : at + size]
        if not piece:
            return at
        protocol = self._protocol
        if not self._missing and piece[0] & 0x0F == 8:
            # RFC 6455 5.4: a control frame may come between fragments, and so may the last one; the library would
            # answer 1002.
            protocol.current_size = self._parts = None
        self._missing = size - len(piece)
        if not self._missing:
            self.frames += 1
        protocol.receive_data(piece)
        try:
            for frame in protocol.events_received():
                assert isinstance(frame, Frame)
                self._take_frame(frame)
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "the text is not UTF-8")
        if self._end is None and protocol.parser_exc is not None and protocol.close_sent is not None:
            self.failed = True
            self._end = (int(protocol.close_sent.code), protocol.close_sent.reason)
        return at + len(piece)

    def _take_frame(self, frame: Frame) -> None:
        """Raises UnicodeDecodeError."""
        opcode = frame.opcode
        if opcode is CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None
            self._end = (int(close.code), close.reason)
        elif opcode is CONT:
            self._go_on(frame.data, frame.fin)
        elif opcode is TEXT or opcode is BINARY:
            if frame.fin:
                self._put(bytes(frame.data), opcode is TEXT)
            else:
                self._parts = bytearray()
                if self._protocol.max_message_size is not None:
                    self._protocol.max_message_size = self._limit + _CONTROL
                self._decoder = _Utf8() if opcode is TEXT else None
                self._go_on(frame.data, False)

    def _go_on(self, data: bytes | bytearray | memoryview, fin: bool) -> None:
        """One more fragment. The library has checked that a message is under way."""
        parts = self._parts
        assert parts is not None
        parts += data
        if len(parts) > self._limit:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"message exceeds limit of {self._limit} bytes")
            return
        if self._decoder is not None:
            self._decoder.decode(bytes(data), fin)
        if fin:
            self._parts = None
            if self._protocol.max_message_size is not None:
                self._protocol.max_message_size = self._limit
            self._put(bytes(parts), self._decoder is not None)

    def _put(self, data: bytes, text: bool) -> None:
        if self._protocol.close_sent is not None:
            return  # RFC 6455 5.5.1: what comes after our close frame is not waited for
        message = data.decode() if text else data
        self.messages.append(message)
        self.waiting += len(message)

    def _fail(self, code: CloseCode, reason: str) -> None:
        """RFC 6455 7.1.7."""
        if not self._protocol.eof_sent:
            self._protocol.fail(code, reason)
        if self._end is None:
            self.failed = True
            self._end = (int(code), reason)

    # -- what is sent to the client ------------------------------------------------------------------------------------

    def text(self, text: str) -> bytes:
        """A text message as bytes. Raises UnicodeEncodeError for a lone surrogate."""
        payload = text.encode()
        if self._plain:
            return text_frame(payload)
        return self._deflated(Opcode.TEXT, payload)

    def binary(self, data: bytes) -> bytes:
        """A binary message as bytes."""
        if self._plain:
            return binary_frame(data)
        return self._deflated(Opcode.BINARY, data)

    def ping(self) -> bytes:
        """A ping as bytes."""
        self._protocol.send_ping(b"")
        return self._written()

    def close(self, code: int, reason: str) -> bytes:
        """The first close frame as bytes. Raises ValueError for a code or a reason that must not be sent."""
        if self._last:
            return self._last_words()
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError as exc:
            raise ValueError(
                f"close code {code} with a reason of {len(reason.encode())} bytes: {exc}"
            ) from None
        return self._written()

    @property
    def over(self) -> bool:
        """Whether the connection is to be closed: the closing handshake is complete, or the client knows its fault."""
        return self._protocol.eof_sent and not self._last

    @property
    def end(self) -> tuple[int, str] | None:
        """Code and reason of the close frame that came, or that was sent for a client's fault (1002, 1007, 1009)."""
        return None if self._last else self._end

    def _deflated(self, opcode: Opcode, data: bytes) -> bytes:
        # Not send_text and its like, which know only the protocol's state: see _last.
        return Frame(opcode, data).serialize(mask=False, extensions=self._protocol.extensions)

    def _last_words(self) -> bytes:
        last, self._last = self._last, b""
        return last

    def _written(self) -> bytes:
        return b"".join(self._protocol.data_to_send())
