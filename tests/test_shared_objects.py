"""What the threads of a child share, used by many of them at the same moment: every invariant holds.

The threads of a test begin at one barrier. With the GIL the switch interval is 1 us; without it there are more threads
than cores, and the kernel switches them where it likes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serverd.config import TimeoutsConfig
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.connection import Connection
from serverd.server.http.events import RequestReceived
from serverd.server.lifecycle import (
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleEvent,
    RequestStarted,
    ResponseCompleted,
)
from serverd.server.loop_queue import LoopQueue
from serverd.server.per_address import PerAddress
from serverd.server.phases import Phase
from serverd.server.scoreboard import Arena
from serverd.server.seldom import SeldomLog
from serverd.server.slots import Scores
from serverd.server.waking_loop import WakingLoop

from .support.apps import hello
from .support.daemon import wait_until
from .support.workers import serving

THREADS = 16


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(body: Callable[[int], object], threads: int = THREADS) -> None:
    """Run `body(number)` in so many threads, from one moment on; what any of them raises is raised here."""
    barrier = threading.Barrier(threads)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            body(number)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def test_an_address_never_has_more_places_than_it_may() -> None:
    places = PerAddress(5)
    taken: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def come_and_go(number: int) -> None:
        for turn in range(300):
            host = f"192.0.2.{(number + turn) % 3}"
            key = places.enter((host, 1))
            if key is not None:
                with lock:
                    taken[key] += 1
                    most[key] = max(most[key], taken[key])
                time.sleep(0)
                with lock:
                    taken[key] -= 1
                places.leave(key)

    at_once(come_and_go)
    assert len(places) == 0
    assert most.most_common(1)[0][1] <= 5


def test_a_slot_belongs_to_one_thread_and_so_does_an_entry_of_the_waiting() -> None:
    arena = Arena.create()
    region = arena.allot(THREADS // 2)
    assert region is not None
    scores = Scores.open(arena.fd, region)
    shown: list[int] = []
    lock = threading.Lock()
    request = RequestReceived("GET", b"/", b"/", b"", "1.1", [])

    def use(number: int) -> None:
        for _ in range(200):
            entry = scores.enter(request, 0.0, 0)
            slot = scores.take()
            if entry >= 0:
                with lock:
                    assert entry not in shown
                    shown.append(entry)
            slot.end(200, 1, 0.001)
            if entry >= 0:
                with lock:
                    shown.remove(entry)
                scores.erase(entry)
            scores.give_back(slot)

    at_once(use)
    taken = [scores.take() for _ in range(THREADS // 2)]
    assert len(set(map(id, taken))) == THREADS // 2
    arena.close()


def test_a_log_line_is_written_once_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("seldom-test")
    say = SeldomLog(logger)

    def repeat(number: int) -> None:
        for _ in range(100):
            say("again")

    at_once(repeat)
    assert [record.getMessage() for record in caplog.records] == ["again"]
    say._silent_until = 0.0
    say("again")
    assert caplog.records[-1].getMessage() == f"again ({THREADS * 100 - 1} more since the last such line)"


class Pairs:
    """Connections of a queue, and their other ends."""

    def __init__(self, queue: ConnectionQueue, number: int) -> None:
        self.held: dict[int, bool] = {}
        self.received: Counter[int] = Counter()
        self.clients: list[socket.socket] = []
        for _ in range(number):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            queue.adopt_plain(ours)
            self.clients.append(theirs)

    def serve(self, queue: ConnectionQueue, conn: Connection) -> None:
        """The owner reads what is there, answers each byte, and parks."""
        assert not self.held.get(conn.id), "two threads own a connection"
        self.held[conn.id] = True
        data = conn.take(1)
        if data:
            self.received[conn.id] += 1
            conn.send(data)
        self.held[conn.id] = False
        queue.park(conn)

    def talk(self, turns: int) -> None:
        """Every client sends a byte and reads it, again and again."""
        for turn in range(turns):
            byte = bytes((turn % 256,))
            for client in self.clients:
                client.sendall(byte)
            for client in self.clients:
                client.settimeout(20)
                assert client.recv(1) == byte

    def close(self) -> None:
        for client in self.clients:
            client.close()


def look_at_all(queue: ConnectionQueue, over: threading.Event) -> None:
    """As the child's main thread: takes connections only to look at them."""
    chance = random.Random(1)
    while not over.is_set():
        for conn in queue.connections():
            if chance.random() < 0.5 and conn.owned.acquire(False):
                queue.give_back(conn)
        time.sleep(0)


@pytest.mark.parametrize("kind", [ConnectionQueue, LoopQueue])
def test_a_connection_has_one_owner_and_no_byte_is_overlooked(kind: type[ConnectionQueue]) -> None:
    queue = kind(TimeoutsConfig())
    pairs = Pairs(queue, 20)
    over = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            pairs.talk(100)
            over.set()
            queue.wake()
        elif number == 1:
            look_at_all(queue, over)
        elif isinstance(queue, LoopQueue):
            if number == 2:  # its loop
                queue.thread = threading.get_ident()
                while not over.is_set():
                    for conn in queue.ready():
                        pairs.serve(queue, conn)
        else:
            while not over.is_set():
                found = queue.get(0.5)
                if found is not None:
                    pairs.serve(queue, found)

    at_once(work, 3 if kind is LoopQueue else THREADS)
    assert sum(pairs.received.values()) == 20 * 100
    assert all(conn.phase == Phase.HEAD for conn in queue.connections())
    pairs.close()
    queue.release()


class Collector:
    """list.append is atomic."""

    def __init__(self) -> None:
        self.events: list[LifecycleEvent] = []

    def record(self, event: LifecycleEvent) -> None:
        self.events.append(event)


def test_every_connection_and_every_request_begins_and_ends_once() -> None:
    collector = Collector()
    with serving(hello, threads=THREADS, collector=collector) as served:

        def client(number: int) -> None:
            for turn in range(20):
                with served.connect() as raw:
                    for _ in range(turn % 3):
                        assert raw.get("/").status == 200

        at_once(client)
        wait_until(lambda: served.queue.open == 0, "all connections are closed")
    for begin, ends in (
        (ConnectionOpened, (ConnectionCompleted,)),
        (RequestStarted, (ResponseCompleted, ClientDisconnected)),
    ):
        begun = Counter(event.connection_id for event in collector.events if isinstance(event, begin))
        ended = Counter(event.connection_id for event in collector.events if isinstance(event, ends))
        assert begun == ended
        if begin is ConnectionOpened:
            assert begun == dict.fromkeys(begun, 1)
            assert len(begun) == THREADS * 20


class Failing:
    """The kernel has no memory for the byte that wakes a loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def test_a_loop_is_woken_by_every_thread_also_without_memory() -> None:
    loop: Any = WakingLoop()
    loop._csock = Failing(loop._csock)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    called: list[int] = []

    def call(number: int) -> None:
        for _ in range(100):
            done = threading.Event()
            loop.call_soon_threadsafe(called.append, number)
            loop.call_soon_threadsafe(done.set)
            assert done.wait(10), "the loop has not woken up"

    try:
        at_once(call)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
    assert Counter(called) == dict.fromkeys(range(THREADS), 100)
    loop.close()
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(print)  # of a closed loop: nothing is rung
