"""RequestReader: what a body takes that comes in very small pieces."""

from __future__ import annotations

import socket
import sys

import pytest

from serverd.config import LimitsConfig
from serverd.server.connection import Connection
from serverd.server.reader import RequestReader


@pytest.mark.parametrize("size", [1, 2, 100, 5000])
def test_pieces_of_a_body_take_little_more_than_the_body(size: int) -> None:
    ours, theirs = socket.socketpair()
    body = bytes(range(256)) * 80
    with ours, Connection(1, theirs.family, theirs.detach(), None, None, 0.0) as conn:
        reader = RequestReader(LimitsConfig())
        ours.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert reader.read(conn) is None
        kept = 0
        complete = None
        for at in range(0, len(body), size):
            kept = sum(map(sys.getsizeof, conn.body)) + sys.getsizeof(conn.body)
            assert kept <= 1.1 * conn.body_size + 1024, f"{kept} bytes for {conn.body_size}"
            ours.sendall(body[at : at + size])
            complete = reader.read(conn)
        assert complete is not None
        assert complete[1] == body
