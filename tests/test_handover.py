"""Connections that change hands: a connection is served by one side or by the other, whatever happens in between.

Two servers in this process stand for the two children; each has real workers, and connections go over a real socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig
from serverd.server import handover
from serverd.server.connection import SINCE, Connection, Server
from serverd.server.handover import BATCH, Arrivals, Departure, Passenger, decode, encode, listened_on, names
from serverd.server.phases import Phase

from .support.apps import Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, Workers, serving

# -- pure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "listening", "expected"),
    [
        (("127.0.0.1", 80), [("127.0.0.1", 80)], True),
        (("127.0.0.1", 80), [("127.0.0.1", 81)], False),
        (("127.0.0.1", 80), [("127.0.0.2", 80)], False),
        (("127.0.0.1", 80), [("0.0.0.0", 80)], True),
        (("127.0.0.1", 80), [("0.0.0.0", 81)], False),
        (("127.0.0.1", 80), [("::", 80)], False),
        (("::1", 80), [("::", 80)], True),
        (("::1", 80), [("0.0.0.0", 80)], False),
        (("::1", 80), [("0.0.0.0", 80), ("::1", 80)], True),
        (("/run/a", None), [("/run/a", None)], True),
        (("/run/a", None), [("/run/b", None)], False),
        (("/run/a", None), [("0.0.0.0", 80)], False),
        (("127.0.0.1", 80), [], False),
        (None, [("0.0.0.0", 80)], False),
    ],
)
def test_only_what_came_by_an_address_of_the_new_side_is_taken(
    local: Server | None, listening: list[Server], expected: bool
) -> None:
    assert listened_on(local, listening) is expected


def test_where_sockets_listen_is_said_as_connections_say_it(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        assert names([tcp, unix]) == [tcp.getsockname(), (path, None)]


BATCHES = [
    [],
    [Passenger(Phase.IDLE, 12.5, socket.AF_INET, ("10.0.0.1", 4711), ("127.0.0.1", 80))],
    [
        Passenger(Phase.HEAD, 0.25, socket.AF_INET6, ("fe80::1", 1), ("::1", 80)),
        Passenger(Phase.IDLE, 1e9, socket.AF_UNIX, None, ("/run/é\udcff", None)),
        Passenger(
            Phase.IDLE, 1e9, socket.AF_UNIX, ("10.0.0.1", 1), ("/run/a", None), ("2001:db8::1", 443), True
        ),
    ],
]


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_arrives_as_it_was_sent(batch: list[Passenger]) -> None:
    assert decode(encode(batch)) == batch


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"connections": 1}',
        b'{"connections": [[]]}',
        b'{"connections": [[0, "soon", 2, null, null]]}',
        b'{"connections": [[0, 1.0, 2, ["host"], null]]}',
        b'{"connections": [[3, 1.0, 2, null, null]]}',  # RUNNING
    ],
)
def test_what_is_no_batch_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(packet)


def test_the_largest_batch_fits_into_a_packet() -> None:
    address = ("f" * 46, 65535)
    longest = Passenger(Phase.IDLE, 1e9 / 3, socket.AF_UNIX, address, ("\udcff" * 108, None), address)
    assert len(encode([longest] * BATCH)) <= handover._LARGEST


# -- two servers ----------------------------------------------------------------------------------------------------


def app_named(name: bytes) -> Any:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, name + b" " + scope["path"].encode())

    return app


class Heir(Arrivals):
    """The side that stays, with a main thread of its own."""

    def __init__(self, served: Workers, listening: Sequence[Server]) -> None:
        self.poll = select.poll()
        super().__init__(served.queue, listening, self.poll)
        self._asked: list[int] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.poll.register(self._wake, select.POLLIN)
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def way(self) -> socket.socket:
        """A new way to this side."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asked.append(theirs.detach())
        os.eventfd_write(self._wake, 1)
        return ours

    def _run(self) -> None:
        while not self._over:
            for fd, _ in self.poll.poll(10_000):
                if fd in self:
                    self.hear(fd)
                else:
                    os.eventfd_read(self._wake)
                    while self._asked:
                        self.expect(self._asked.pop())

    def __enter__(self) -> Heir:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(10)
        self.close()
        os.close(self._wake)


@contextlib.contextmanager
def two(
    old: str = "threads", new: str = "threads", *, room: int = 0, listening: Sequence[Server] | None = None
) -> Iterator[tuple[Workers, Workers, Heir]]:
    """A server that leaves, one that stays (with ``room`` for so many connections), and the way to that."""
    small = ServerConfig(app="test:app", limits=LimitsConfig(connections=room))
    with (
        serving(app_named(b"old"), by=old) as left,
        serving(app_named(b"new"), by=new, config=small) as stays,
        Heir(stays, [left.address] if listening is None else listening) as heir,
    ):
        yield left, stays, heir


def departure(left: Workers, *heirs: socket.socket) -> Departure:
    leaving = Departure(left.queue, heirs)
    leaving.begin()
    return leaving


def parked(served: Workers, count: int = 1) -> list[Connection]:
    """Its connections, when there are ``count`` and nobody holds one."""

    def found() -> list[Connection]:
        open_now = list(served.queue.connections())
        idle = [conn for conn in open_now if not conn.owned.locked()]
        return idle if len(idle) == count == len(open_now) else []

    return wait_until(found, f"{count} parked connections")


def hand_over_all(leaving: Departure, left: Workers) -> None:
    """As the child's main thread does it, whenever something has happened."""

    def turn() -> bool:
        leaving.hand_over()
        return not left.queue.open

    wait_until(turn)


def wait_for_connections(served: Workers, count: int) -> None:
    wait_until(lambda: served.queue.open == count)


def wait_for_each(counts: list[int], more: int) -> None:
    enough = [count + more for count in counts]
    wait_until(lambda: all(count >= least for count, least in zip(counts, enough, strict=True)))


each_pair = pytest.mark.parametrize(
    ("old", "new"),
    [("threads", "threads"), ("threads", "asyncio"), ("asyncio", "threads"), ("uvloop", "uvloop")],
)


@each_pair
def test_an_idle_connection_is_served_by_the_new_side(old: str, new: str) -> None:
    with two(old, new) as (left, stays, heir), left.connect() as client, left.connect() as silent:
        assert client.get("/1").body == b"old /1"
        before = {
            conn.fd: (conn.phase, conn.peer, conn.local, conn.numbers[SINCE]) for conn in parked(left, 2)
        }
        leaving = departure(left, heir.way())
        leaving.hand_over()
        assert (left.queue.open, leaving.gone) == (0, 2)
        after = [(conn.phase, conn.peer, conn.local, conn.numbers[SINCE]) for conn in parked(stays, 2)]
        assert sorted(before.values()) == sorted(after), (
            "the deadline goes on, the addresses are the client's"
        )
        for number in range(3):
            assert client.get(f"/{number}").body == b"new /%d" % number
        answer = silent.get("/")
        assert (answer.body, answer.header("connection")) == (b"new /", None)
        leaving.end()


@pytest.mark.parametrize("old", ["threads", "asyncio"])
def test_the_epoll_of_the_old_side_forgets_what_has_left(old: str) -> None:
    """The open file lives on in the other process, and without care so does its registration (epoll(7))."""
    with two(old) as (left, _, heir), left.connect() as client:
        client.get("/")
        parked(left)
        leaving = departure(left, heir.way())
        leaving.hand_over()
        events = len(left.queue._epoll.poll(0))
        for _ in range(3):
            assert client.get("/").body == b"new /"
        assert len(left.queue._epoll.poll(0)) == events
        leaving.end()


@each_pair
def test_what_is_sent_on_the_way_is_answered_by_the_new_side(old: str, new: str) -> None:
    class Slow(Departure):
        def _send(self, heir: socket.socket, share: Sequence[Connection]) -> bool:
            client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\nGET /c HTT")
            wait_until(share[0].is_ready)
            return super()._send(heir, share)

    with two(old, new) as (left, _, heir), left.connect() as client:
        client.get("/")
        parked(left)
        leaving = Slow(left.queue, [heir.way()])
        leaving.begin()
        leaving.hand_over()
        assert [client.response().body for _ in range(2)] == [b"new /a", b"new /b"]
        client.send(b"P/1.1\r\nHost: x\r\n\r\n")
        assert client.response().body == b"new /c"
        leaving.end()


@pytest.mark.parametrize("old", ENGINES)
def test_half_a_request_is_answered_where_it_is_and_leaves_then(old: str) -> None:
    with two(old) as (left, _, heir), left.connect() as client:
        client.send(b"GET /half HTTP/1.1\r\n")
        wait_until(lambda: any(conn.inbox for conn in left.queue.connections()))
        leaving = departure(left, heir.way())
        left.drain()
        leaving.hand_over()
        assert left.queue.open == 1
        client.send(b"Host: x\r\n\r\n")
        answer = client.response()
        assert (answer.body, answer.header("connection")) == (b"old /half", None)
        hand_over_all(leaving, left)
        assert client.get("/next").body == b"new /next"
        leaving.end()


@pytest.mark.parametrize("old", ENGINES)
def test_no_thread_reads_on_before_its_connection_has_left(old: str) -> None:
    """A client that always has its next request ready would else be served by old code for ever."""
    with two(old) as (left, _, heir), left.connect() as client:
        client.get("/")
        parked(left)
        leaving = departure(left, heir.way())
        left.drain()
        client.send(b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().body == b"old /now"
        client.send(b"GET /then HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: leaving._idle)
        (conn,) = left.queue.connections()
        wait_until(conn.is_ready)
        assert conn.phase == Phase.IDLE
        leaving.hand_over()
        assert client.response().body == b"new /then"
        leaving.end()


def test_shares_are_even() -> None:
    with (
        serving(app_named(b"old")) as left,
        serving(app_named(b"one")) as one,
        serving(app_named(b"two")) as other,
        Heir(one, [left.address]) as first,
        Heir(other, [left.address]) as second,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(left.connect()) for _ in range(2 * BATCH + 7)]
        for client in clients:
            client.get("/")
        parked(left, len(clients))
        leaving = departure(left, first.way(), second.way())
        leaving.hand_over()
        wait_until(lambda: sorted((one.queue.open, other.queue.open)) == [BATCH + 3, BATCH + 4])
        answers = [client.get("/").body for client in clients]
        assert answers.count(b"one /") == one.queue.open
        leaving.end()


# -- what cannot be handed over ------------------------------------------------------------------------------------


def test_what_came_by_an_address_that_is_given_up_stays() -> None:
    with two(listening=[("127.0.0.1", 1)]) as (left, stays, heir), left.connect() as client:
        client.get("/")
        (conn,) = parked(left)
        leaving = departure(left, heir.way())
        left.drain()
        leaving.hand_over()
        assert conn.stays
        assert (leaving.gone, stays.queue.open) == (0, 0)
        answer = client.get("/")
        assert (answer.body, answer.header("connection")) == (b"old /", "close")
        leaving.end()


def test_the_new_side_takes_no_more_than_its_limit() -> None:
    with two(room=2) as (left, stays, heir), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(left.connect()) for _ in range(5)]
        for client in clients:
            client.get("/")
        parked(left, 5)
        leaving = departure(left, heir.way())
        left.drain()
        leaving.hand_over()
        assert (left.queue.open, bool(leaving)) == (3, False)
        wait_for_connections(stays, 2)  # it answers first
        answers = [client.get("/") for client in clients]
        assert sorted((answer.body, answer.header("connection") or "") for answer in answers) == [
            *[(b"new /", "")] * 2,
            *[(b"old /", "close")] * 3,
        ]
        leaving.end()


def test_a_connection_with_tls_stays() -> None:
    class Secure(Connection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.secure = True

        def tls_extension(self) -> dict[str, Any]:
            return {}

    with (
        serving(app_named(b"old"), make_connection=Secure) as left,
        serving(app_named(b"new")) as stays,
        Heir(stays, [left.address]) as heir,
        left.connect() as client,
    ):
        client.get("/")
        parked(left)
        leaving = departure(left, heir.way())
        left.drain()
        leaving.hand_over()
        answer = client.get("/")
        assert (answer.body, answer.header("connection")) == (b"old /", "close")
        leaving.end()


def gone(way: socket.socket, there: socket.socket, heir: Arrivals) -> None:
    there.close()


def silent(way: socket.socket, there: socket.socket, heir: Arrivals) -> None:
    """Its main thread stands still, and goes on when it is too late."""


def talks_nonsense(way: socket.socket, there: socket.socket, heir: Arrivals) -> None:
    there.send(b"nonsense")


def dies_with_the_batch(way: socket.socket, there: socket.socket, heir: Arrivals) -> None:

    def die() -> None:
        select.select([there], [], [])
        there.close()

    threading.Thread(target=die).start()


@pytest.mark.parametrize("fault", [gone, silent, talks_nonsense, dies_with_the_batch])
@pytest.mark.parametrize("old", ["threads", "asyncio"])
def test_an_heir_that_fails_takes_nothing_and_nothing_is_lost(
    fault: Callable[..., None], old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 0.2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with serving(app_named(b"old"), by=old) as left, serving(app_named(b"new")) as stays, theirs:
        late = Arrivals(stays.queue, [left.address], select.poll())
        with left.connect() as client, left.connect() as fresh:
            client.get("/")
            parked(left, 2)
            fault(ours, theirs, late)
            leaving = departure(left, ours)
            left.drain()
            leaving.hand_over()
            assert not leaving
            assert left.queue.open == 2
            if theirs.fileno() >= 0:
                fd = os.dup(theirs.fileno())
                late.expect(fd)
                late.hear(fd)  # the batch: refused, as its sender does not wait any more
                assert fd not in late
            assert stays.queue.open == 0
            for one in (client, fresh):
                answer = one.get("/")
                assert (answer.body, answer.header("connection")) == (b"old /", "close")
            leaving.end()
        late.close()


def test_an_answer_that_crosses_the_end_of_patience_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sent, so the other side serves: the kernel gives it even after our half is shut down."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:

        class Late(socket.socket):
            def shutdown(self, how: int) -> None:
                theirs.send(b'{"refused": [1], "full": false}')
                super().shutdown(how)

        late = Late(fileno=os.dup(ours.fileno()))
        with late:
            late.setblocking(False)
            assert handover._answer(late, time.monotonic()) == ({1}, False)
            with pytest.raises(BrokenPipeError):
                theirs.send(b"later")


@pytest.mark.parametrize("packet", [b"nonsense", encode(BATCHES[1]), encode([])])
def test_a_batch_that_makes_no_sense_is_refused_and_its_source_dropped(
    packet: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one with more connections than descriptors, as when our limit of open files has cut them off."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, serving(app_named(b"new")) as stays, socket.socket() as stray:
        arrivals = Arrivals(stays.queue, [("127.0.0.1", 80)], select.poll())
        fd = theirs.detach()
        arrivals.expect(fd)
        descriptors = [stray.fileno()] if packet == encode([]) else []
        socket.send_fds(ours, [packet], descriptors)
        arrivals.hear(fd)
        assert fd not in arrivals
        assert "refused" in caplog.text
        assert ours.recv(100) == b""


class Deaf(socket.socket):
    """Its other end has no room for an answer."""

    def send(self, *_: Any) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_batch_that_cannot_be_answered_is_refused_and_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there, here = socket.socketpair()
    with ours, here, serving(app_named(b"new")) as stays:
        arrivals = Arrivals(stays.queue, [("127.0.0.1", 80)], select.poll())
        fd = theirs.detach()
        arrivals.expect(fd)
        arrivals._sources[fd] = Deaf(fileno=arrivals._sources[fd].detach())
        socket.send_fds(ours, [encode([idle_at(("127.0.0.1", 80))])], [there.fileno()])
        there.close()
        arrivals.hear(fd)
        assert fd not in arrivals
        assert stays.queue.open == 0
        here.settimeout(10)
        assert here.recv(1) == b"", "the descriptor that came is closed"


def test_a_connection_that_cannot_be_adopted_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    """Those that came with it are served: their sender has let go of them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open("/", os.O_RDONLY)  # no socket
    there, here = socket.socketpair()
    with ours, serving(app_named(b"new")) as stays, here:
        arrivals = Arrivals(stays.queue, [("127.0.0.1", 80)], select.poll())
        fd = theirs.detach()
        arrivals.expect(fd)
        one = idle_at(("127.0.0.1", 80))
        socket.send_fds(ours, [encode([one, one])], [there.fileno(), folder])
        there.close()
        os.close(folder)
        arrivals.hear(fd)
        assert fd in arrivals
        assert "is lost" in caplog.text
        here.settimeout(10)
        here.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with here.makefile("rb") as answer:
            assert answer.read().endswith(b"new /")
        arrivals.close()


def idle_at(local: Server) -> Passenger:
    return Passenger(Phase.IDLE, time.monotonic(), int(socket.AF_UNIX), None, local)


# -- everything at once --------------------------------------------------------------------------------------------


@each_pair
def test_connections_that_go_to_and_fro_under_load_lose_nothing(old: str, new: str) -> None:
    """Each request is answered once, in order, by whoever has the connection then."""
    over = threading.Event()
    asked = [0] * 8
    changes = [0] * 8

    def ask(number: int) -> None:
        with RawClient(left.address) as client:
            last = b""
            while not over.is_set():
                path = f"/{number}-{asked[number]}"
                by, _, rest = client.get(path).body.partition(b" ")
                assert rest == path.encode()
                changes[number] += by != last
                last = by
                asked[number] += 1

    listening: list[Server] = []
    with two(old, new, listening=listening) as (left, right, there), Heir(left, listening) as back:
        listening.append(left.address)
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask, number) for number in range(8)]
            try:
                wait_for_each(asked, 1)
                for source, heir in [(left, there), (right, back)] * 10:
                    wait_for_connections(source, 8)
                    leaving = departure(source, heir.way())
                    hand_over_all(leaving, source)
                    leaving.end()
                    wait_for_each(asked, 2)  # the first may have been on its way before
            finally:
                over.set()
            for client in clients:
                client.result(20)
        assert changes == [21] * 8
