"""The phases of a connection: what may follow each, and what the epoll is to report in it.

Tables only. Who may move a connection from one phase to the next is for ``connection`` to say.
"""

from __future__ import annotations

from typing import Final


class Phase:
    """Where a connection is in its life.

    Numbers and not an Enum, because every thread reads them for every request: without a GIL the reference count of an
    Enum member is a cache line that all cores fight over, and small integers have none.
    """

    IDLE: Final = 0  # between two requests, nothing received
    HEAD: Final = 1  # new, or part of a request's head received
    BODY: Final = 2  # head complete, body is not
    RUNNING: Final = 3  # the application has it; never parked
    WRITING: Final = 4  # the response is complete here, the client has not taken all of it
    LINGERING: Final = 5  # answered and half-closed; what still comes is thrown away (RFC 9112 9.6)
    CLOSED: Final = 6
    HANDSHAKE: Final = 7  # new, and TLS is not agreed upon yet
    PREFACE: Final = 8  # new, and its header of the PROXY protocol is not complete


NAMES: Final = (
    "IDLE", "HEAD", "BODY", "RUNNING", "WRITING", "LINGERING", "CLOSED", "HANDSHAKE", "PREFACE",
)  # fmt: skip

# The only authority on what may follow a phase: bit n of a row says that phase n may (LSB first: IDLE, HEAD, …).
NEXT: Final = (
    0b001111110,  # IDLE: anything but IDLE
    0b001111110,  # HEAD: stays, or goes on
    0b001111100,  # BODY: no way back to the head
    0b001110011,  # RUNNING: the next request, writing, the end
    0b001110011,  # WRITING: stays, the next request, the end
    0b001100000,  # LINGERING: stays, the end
    0b000000000,  # CLOSED
    0b011100010,  # HANDSHAKE: stays, the first request, the end
    0b111000010,  # PREFACE: stays, the handshake, the first request, the end without an answer
)

# What wakes a parked connection, by phase: EPOLLONESHOT with EPOLLIN and EPOLLRDHUP, or with EPOLLOUT. As numbers,
# because CPython makes only constants that it sees in the source immortal, and these are read by every thread for
# every request; tests/test_connection.py compares them with those of select.
INTEREST: Final = (
    0x40002001, 0x40002001, 0x40002001, 0, 0x40000004, 0x40002001, 0, 0x40002001, 0x40002001,
)  # fmt: skip
# What wakes it between two requests, when all that had come was read: EPOLLET, EPOLLRDHUP and EPOLLIN. Each arrival is
# reported once, also while the connection has an owner, and it need not be armed again for the next one.
EDGE: Final = 0x80002001
# Added to it for a connection that has to be served at once: a socket that has room is ready to be written to.
AT_ONCE: Final = 0x4
