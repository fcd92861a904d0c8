"""When a queue stands, who is told to come again later, and how long a request has waited."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from serverd.server.conn_queue import ConnectionQueue
from serverd.server.connection import SINCE, Connection
from serverd.server.shedding import INTERVAL, Gate, Standing, judge, kernel_wait, retry_after

from .support.daemon import wait_until

LIMIT = 0.5


def run(waits: list[tuple[float, float]]) -> list[bool]:
    """Which of the requests are refused: each is (when it is taken from the queue, how long it has waited)."""
    queue = Standing()
    refused = []
    for now, wait in waits:
        queue, out = judge(queue, wait, now, LIMIT)
        refused.append(out)
    return refused


def test_a_burst_is_served() -> None:
    """All of it comes at once, and its last ones wait longer than the limit, but not for an interval."""
    assert not any(run([(now / 100, now / 100) for now in range(59)]))


def test_a_queue_that_stands_is_cut_to_the_limit() -> None:
    refused = run([(now / 100, 0.6) for now in range(100)])
    assert not any(refused[:10])
    assert all(refused[11:])
    assert INTERVAL == 0.1


def test_one_that_waited_less_shows_that_the_queue_does_not_stand() -> None:
    waits = [(now / 100, 0.4 if now % 8 == 0 else 0.6) for now in range(100)]
    assert not any(run(waits))


def test_those_under_the_limit_are_served_and_it_goes_on() -> None:
    """In a lasting overload those that are served have waited just under the limit."""
    before = [(now / 100, 0.6) for now in range(20)]
    after = [(0.2 + now / 100, 0.45 if now % 2 else 0.55) for now in range(50)]
    assert run(before + after)[20:] == [now % 2 == 0 for now in range(50)]


def test_half_the_limit_is_the_end_of_it() -> None:
    before = [(now / 100, 0.6) for now in range(20)]
    assert run([*before, (0.20, 0.6), (0.21, 0.2), (0.22, 0.6), (0.25, 0.6)])[20:] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, 1), (0.5, 1), (1.2, 2), (7.0, 7), (900.0, 60)])
def test_retry_after(wait: float, seconds: int) -> None:
    assert retry_after(wait) == seconds


def connection(sock: socket.socket, peer: tuple[str, int] | None = ("127.0.0.1", 1)) -> Connection:
    return Connection(1, sock.family, sock.detach(), peer, None, time.monotonic())


def test_the_kernel_knows_how_long_ago_a_request_came() -> None:
    """Also while it was in the backlog, which is where new connections wait."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        threading.Event().wait(0.1)
        conn = connection(listener.accept()[0])
        wait = kernel_wait(conn)
        assert wait is not None
        assert 0.09 <= wait < 5
        conn.recv(100)
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(conn.has_data)
        wait = kernel_wait(conn)
        assert wait is not None
        assert wait < 0.09
        conn.close()


def test_a_unix_socket_knows_nothing() -> None:
    ours, theirs = socket.socketpair()
    conn = connection(ours, None)
    assert kernel_wait(conn) is None
    conn.close()
    theirs.close()


def test_new_connections_and_parked_ones_are_two_queues() -> None:
    """A listener has one place in the epoll's list however many wait behind it."""
    woken: list[bool] = []
    delay = 0.0
    gate = Gate(0.001, lambda: woken.append(True), lambda now: delay)
    new, parked = (connection(socket.socket(socket.AF_UNIX), None) for _ in range(2))
    parked.known = True  # it has had a request before
    new.numbers[SINCE] = parked.numbers[SINCE] = time.monotonic() - 10
    assert gate.asks(new) == (None, False)
    gate.measures = True
    end = time.monotonic() + 2 * INTERVAL
    while time.monotonic() < end:
        delay = 0.0
        assert gate.asks(parked) == (0.0, False)
        delay = 0.5
        refused = gate.asks(new)
    assert refused == (0.5, True)
    seen = gate.collect()
    assert (seen.least, seen.longest) == (0.0, 0.5)
    assert seen.refused > 0
    assert gate.collect().least is None
    gate.calm()
    assert gate.asks(new) == (0.5, False)
    new.numbers[SINCE] = (
        time.monotonic() - 0.1
    )  # parked after the probe was sent, and it waits no longer than that
    assert 0.1 <= (gate.asks(new)[0] or 0) < 0.5
    assert not woken
    gate.asleep = True
    gate.asks(new)
    assert woken
    assert not gate.asleep
    new.close()
    parked.close()


def test_epoll_gives_first_what_was_ready_first() -> None:
    """On which the probe rests: also for what becomes ready by being armed, and behind what was armed again."""
    queue = ConnectionQueue()
    taken: list[int] = []
    probes = [os.eventfd(1) for _ in range(3)]
    for number, fd in enumerate(probes):
        queue.errands.add(fd, lambda number=number: bool(taken.append(number)))  # type: ignore[misc, func-returns-value]
    ends = [os.eventfd(0) for _ in range(40)]
    epoll = queue._epoll
    for fd in ends:
        epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
    order: list[int] = []
    for number, fd in enumerate([*ends[1::2], *ends[::2]]):
        if number in (10, 20, 30):
            queue.errands.arm(probes[number // 10 - 1])
            order.append(probes[number // 10 - 1])
        os.eventfd_write(fd, 1)
        order.append(fd)
    got = [epoll.poll(0, 1)[0][0] for _ in range(20)]
    epoll.modify(got[0], select.EPOLLIN | select.EPOLLONESHOT)  # ready still: it goes behind all others
    got += [epoll.poll(0, 1)[0][0] for _ in range(24)]
    assert got == [*order, order[0]]
    queue.errands.arm(probes[2])
    assert queue.get(0) is None
    assert taken == [2]
    queue.release()
    for fd in (*probes, *ends):
        os.close(fd)
