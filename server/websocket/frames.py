"""Frames of RFC 6455 that need no state: where one ends, and a strict fast path for the plain data frame.

Beside the ``websockets`` library's parser, which takes everything, stands this one, which takes only what nearly every
frame is: complete, whole message in one frame, not compressed, at most 65,535 bytes, masked, valid UTF-8 if it is
text (RFC 6455 5.2 and 5.6). Promises: what ``read_messages`` takes, the library reads to the same message
(tests/test_websocket_frames.py compares them); what it does not take it leaves in place. A frame that ``text_frame``
and ``binary_frame`` make is the one that the library would make. Refuses: to judge. What is wrong is for the library to
fail, so that there is one place that knows the close codes.

Pure functions of bytes; any thread may call them. Figures are in docs/design-notes.md.
"""

from __future__ import annotations

from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without a wheel, and no compiler
    from websockets.utils import apply_mask

Message = str | bytes

_TEXT: Final = 0x81  # FIN and opcode 1 (RFC 6455 5.2)
_BINARY: Final = 0x82
_MASKED: Final = 0x80
# Heads of the frames that a server sends with up to 125 bytes: two bytes each, made once.
_TEXT_HEADS: Final = tuple(bytes((_TEXT, length)) for length in range(126))
_BINARY_HEADS: Final = tuple(bytes((_BINARY, length)) for length in range(126))


def text_frame(payload: bytes) -> bytes:
    """A whole text message, unmasked as a server sends it. payload: valid UTF-8."""
    length = len(payload)
    return (_TEXT_HEADS[length] if length < 126 else _long_head(_TEXT, length)) + payload


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message, unmasked as a server sends it."""
    length = len(payload)
    return (_BINARY_HEADS[length] if length < 126 else _long_head(_BINARY, length)) + payload


def _long_head(first: int, length: int) -> bytes:
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2)
    return bytes((first, 127)) + length.to_bytes(8)


def read_messages(data: bytes, at: int, limit: int, messages: list[Message]) -> int:
    """Append the messages of a client's plain data frames from ``at`` on; where the first other thing begins.

    limit: a message with more bytes is left in place.
    """
    size = len(data)
    while True:
        begin = at + 6  # two bytes of head, four of mask
        if begin > size:
            return at
        first = data[at]
        if first != _TEXT and first != _BINARY:
            return at
        length = data[at + 1] - _MASKED
        if length >= 126:
            if length == 127 or begin + 2 > size:
                return at
            begin += 2
            length = data[at + 2] << 8 | data[at + 3]
        end = begin + length
        if length < 0 or end > size or length > limit:
            return at
        payload = apply_mask(data[begin:end], data[begin - 4 : begin])
        if first == _TEXT:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                return at
        else:
            messages.append(payload)
        at = end


def frame_size(data: bytes, at: int) -> int:
    """The bytes that the frame beginning at ``at`` takes on the wire; 0 while that cannot be told."""
    if len(data) - at < 2:
        return 0
    second = data[at + 1]
    length = second & 0x7F
    head = 6 if second & _MASKED else 2
    if length >= 126:
        extended = 2 if length == 126 else 8
        head += extended
        length = int.from_bytes(data[at + 2 : at + 2 + extended])
    return head + length if len(data) - at >= head else 0
