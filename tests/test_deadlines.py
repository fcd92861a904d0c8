"""When connections are looked at, and whose time begins anew; without a queue."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from time import monotonic

import pytest

from serverd.config import TimeoutsConfig
from serverd.server.connection import SINCE, Connection
from serverd.server.deadlines import Deadlines, excused
from serverd.server.phases import Phase


@contextlib.contextmanager
def pair(phase: int, since: float, *, inbox: bytes = b"") -> Iterator[tuple[Connection, socket.socket]]:
    """A connection that waits in `phase` since then, and its client."""
    ours, theirs = socket.socketpair()
    conn = Connection(1, ours.family, ours.detach(), None, None, 1.0)
    conn.phase = phase
    conn.numbers[SINCE] = since
    conn.inbox = inbox
    with conn, theirs:
        yield conn, theirs


def test_all_are_looked_at_only_so_often() -> None:
    deadlines = Deadlines(TimeoutsConfig(head=10.0))
    with pair(Phase.HEAD, 100.0) as (conn, _):
        assert deadlines.look([conn], 105.0) == ([], 107.0), "nothing that is set from now on is due sooner"
        assert deadlines.look([conn], 109.0) == ([], 110.0)
        overdue, again = deadlines.look([conn] * 10_000, 109.99)
        assert not overdue
        assert again == pytest.approx(110.09), "0.1 s of rest"
        assert deadlines.rest_until == pytest.approx(110.09)
        overdue, again = deadlines.look([conn], 110.0)
        assert overdue == [conn]
        assert 110.0 < again < 110.1


def test_many_that_are_due_together_are_given_out_in_parts() -> None:
    deadlines = Deadlines(TimeoutsConfig(head=10.0))
    with pair(Phase.HEAD, 100.0) as (conn, _):
        overdue, again = deadlines.look([conn] * 10_000, 110.0)
        assert 100 <= len(overdue) <= 500
        assert deadlines.rest_until == again < 110.05


@pytest.mark.parametrize(("phase", "since"), [(Phase.HEAD, 1.0), (Phase.HEAD, 100.0), (Phase.BODY, 100.0)])
def test_who_sends_has_no_time_anew_for_what_nobody_has_read_yet(phase: int, since: float) -> None:
    with pair(phase, since, inbox=b"GET") as (conn, client):
        assert not excused(conn), "nothing is there"
        client.send(b"x")
        assert excused(conn), "it is read first"
        assert conn.numbers[SINCE] == since


def test_who_reads_has_its_time_anew_when_nobody_has_seen_it() -> None:
    with pair(Phase.WRITING, 100.0) as (conn, _):
        assert excused(conn)
        assert monotonic() - conn.numbers[SINCE] < 60


def test_a_handshake_has_its_time_anew_once() -> None:
    with pair(Phase.HANDSHAKE, 1.0) as (conn, client):
        client.send(b"\x16")
        assert excused(conn)
        since = conn.numbers[SINCE]
        assert since > 1.0
        assert excused(conn), "it is read first"
        assert conn.numbers[SINCE] == since


def test_who_lingers_is_not_excused() -> None:
    with pair(Phase.LINGERING, 100.0) as (conn, client):
        client.send(b"x")
        assert not excused(conn)


def test_who_asks_for_more_and_reads_nothing_is_not_excused() -> None:
    with pair(Phase.IDLE, 100.0, inbox=b"GET / HTTP/1.1\r\n\r\n") as (conn, client):
        assert excused(conn), "there is room for its answer: it is a thread that was missing"
        client.send(b"GET")
        with contextlib.suppress(BlockingIOError):
            while True:
                conn.send(bytes(65536))
        assert not excused(conn)
