"""When all places are taken: the longest idle connection goes, and nothing that has anything to do with a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig
from serverd.server import longest_idle
from serverd.server.connection import SINCE, Connection
from serverd.server.longest_idle import SILENT
from serverd.server.phases import Phase

from .support.apps import Receive, Send, reply
from .support.client import RawClient
from .support.daemon import wait_until
from .support.workers import ENGINES, Workers, serving

FULL = 8
CONFIG = ServerConfig(app="test:app", limits=LimitsConfig(connections=FULL))


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await reply(send, scope["path"].encode())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=ENGINES)
def served(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with serving(app, config=CONFIG, by=request.param) as served:
        served.queue.alone = True
        yield served


def idle(served: Workers, client: RawClient, ago: float) -> None:
    """``client`` has asked, and is idle for ``ago`` seconds."""
    port = client.sock.getsockname()[1]
    assert client.get("/").status == 200
    (conn,) = (conn for conn in served.queue.connections() if conn.peer is not None and conn.peer[1] == port)
    wait_until(lambda: conn.phase == Phase.IDLE and not conn.owned.locked())
    conn.numbers[SINCE] = time.monotonic() - ago


def test_who_has_sent_half_a_record_of_tls_stands_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a look finds: they would be looked at again and again, and nobody else."""
    monkeypatch.setattr(longest_idle, "LOOK", 2)
    with serving(app, config=CONFIG) as served, ExitStack() as stack:
        served.queue.alone = True
        clients = [stack.enter_context(served.connect()) for _ in range(FULL)]
        for number, client in enumerate(clients):
            idle(served, client, 20.0 - number)
        monkeypatch.setattr(Connection, "partial", property(lambda conn: conn.id <= FULL // 2))
        with served.connect() as new:
            assert new.get("/new").body == b"/new"
            there = {conn.id for conn in served.queue.connections()}
        assert set(range(1, FULL + 1)) - there == {FULL // 2 + 1}


def test_nobody_may_go_is_known_for_a_while(served: Workers, stack: ExitStack) -> None:
    for _ in range(FULL):
        stack.enter_context(served.connect())  # they have sent nothing, and that for no second yet
    wait_until(lambda: served.queue.open == FULL)
    looks = list[float]()
    chooser = served.queue._longest_idle
    look = chooser._look

    def counted(now: float) -> bool:
        looks.append(now)
        return look(now)

    chooser._look = counted  # type: ignore[method-assign]
    taken = [chooser.take() for _ in range(100)]
    assert not any(taken)
    assert 1 <= len(looks) <= 2 + int((time.monotonic() - looks[0]) / longest_idle.REST)


def test_the_longest_idle_goes_for_a_new_one_and_only_that(served: Workers, stack: ExitStack) -> None:
    clients = [stack.enter_context(served.connect()) for _ in range(FULL)]
    ages = {client: 5.0 + (number * 7) % FULL for number, client in enumerate(clients)}
    for client, age in ages.items():
        idle(served, client, age)
    clients.sort(key=ages.__getitem__, reverse=True)
    for number in range(4):
        new = stack.enter_context(served.connect())
        assert new.get("/new").body == b"/new"
        assert clients[number].closed(), "the longest idle"
        assert served.queue.seen_off == number + 1
        assert served.queue.open == FULL
    for client in clients[4:]:
        assert client.get("/").status == 200


def test_who_was_used_after_the_look_is_not_the_longest_idle_any_more(
    served: Workers, stack: ExitStack
) -> None:
    clients = [stack.enter_context(served.connect()) for _ in range(FULL)]
    for number, client in enumerate(clients):
        idle(served, client, 9.0 - number)
    assert stack.enter_context(served.connect()).get("/new").status == 200
    assert clients[0].closed()
    assert clients[1].get("/").status == 200
    assert stack.enter_context(served.connect()).get("/new").status == 200
    assert clients[2].closed()
    assert clients[1].get("/").status == 200


def test_who_has_begun_a_request_stays_and_who_never_said_anything_goes(
    served: Workers, stack: ExitStack
) -> None:
    begun = stack.enter_context(served.connect())
    begun.send(b"GET / HT")
    others = [stack.enter_context(served.connect()) for _ in range(FULL - 2)]
    silent = stack.enter_context(served.connect())
    for other in others:
        idle(served, other, 5.0)
    wait_until(lambda: served.queue.open == FULL and any(conn.inbox for conn in served.queue.connections()))
    for conn in served.queue.connections():
        if conn.phase == Phase.HEAD:
            conn.numbers[SINCE] = time.monotonic() - (SILENT + 5)
    for _ in range(FULL - 1):
        assert stack.enter_context(served.connect()).get("/new").status == 200
    assert silent.closed()
    assert all(other.closed() for other in others)
    begun.send(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert begun.response().status == 200


def test_with_nobody_idle_who_comes_waits_for_the_first_that_ends() -> None:
    go_on, inside = threading.Event(), threading.Semaphore(0)

    async def blocking(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        inside.release()
        go_on.wait(20)
        await reply(send, b"done")

    config = replace(CONFIG, limits=LimitsConfig(connections=2))
    with serving(blocking, config=config, threads=3, by="threads") as served:
        served.queue.alone = True
        with served.connect() as one, served.connect() as two, served.connect() as third:
            for client in (one, two):
                client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert inside.acquire(timeout=10)
            third.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: served.queue.pauses == 1)
            assert served.queue.open == 2
            go_on.set()
            assert third.response().body == b"done"
            assert [one.response().status, two.response().status] == [200, 200]


def test_a_child_that_is_not_alone_lets_others_take_who_waits_first(stack: ExitStack) -> None:
    served = stack.enter_context(serving(app, config=CONFIG, by="threads"))
    clients = [stack.enter_context(served.connect()) for _ in range(FULL)]
    for client in clients:
        idle(served, client, 5.0)
    assert stack.enter_context(served.connect()).get("/new").body == b"/new"
    assert served.queue.pauses == 1
    assert served.queue.seen_off > 0


def test_who_left_before_being_accepted_costs_nobody_a_place(stack: ExitStack) -> None:
    """The listener has an event, and nobody is there."""
    served = stack.enter_context(serving(app, config=CONFIG, by="threads", threads=0))
    served.queue.alone = True
    for _ in range(FULL):
        stack.enter_context(served.connect())
        conn = served.queue.get(5)
        assert conn is not None
        conn.move(Phase.RUNNING)
        conn.move(Phase.IDLE)
        served.queue.park(conn)
        conn.numbers[SINCE] = time.monotonic() - 5
    (listener,) = served.queue._listeners._sockets.values()
    assert served.queue._other(listener.fileno()) is False
    assert served.queue.seen_off == 0
    assert served.queue.open == FULL


def test_a_connection_that_cannot_be_made_leaves_the_door_open(caplog: pytest.LogCaptureFixture) -> None:
    """Memory, say, is short for a moment: whoever comes next is let in, and nobody has gone for nothing."""
    failed = threading.Event()

    def make(*args: Any) -> Connection:
        if args[0] == FULL + 1 and not failed.is_set():
            failed.set()
            raise MemoryError
        return Connection(*args)

    with serving(app, config=CONFIG, make_connection=make) as served, ExitStack() as stack:
        served.queue.alone = True
        clients = [stack.enter_context(served.connect()) for _ in range(FULL)]
        for number, client in enumerate(clients):
            idle(served, client, 20.0 - number)
        stack.enter_context(served.connect())
        wait_until(failed.is_set)
        with served.connect() as new:
            assert new.get("/new").body == b"/new"
            assert served.queue.open == FULL
            assert all(client.get("/").status == 200 for client in clients[2:]), (
                "one has gone, for one who came"
            )
    assert [record.getMessage() for record in caplog.records if record.exc_info]
