"""The admin plane's parts that touch the outside: the question to the master, the master's ear, the shared memory."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from serverd.config import AdminConfig, ServerConfig, TcpAddress
from serverd.server.admin.order import GO, PING, PONG, AdminOrder
from serverd.server.admin.pulse import PATIENCE, Pulse
from serverd.server.admin.reading import Reader
from serverd.server.channel import Channel
from serverd.server.facts import write_page
from serverd.server.http.events import RequestReceived
from serverd.server.scoreboard import Arena, Totals
from serverd.server.slots import LOOP, MAIN, WEBSOCKET, Scores
from serverd.supervisor.admin import Admin
from serverd.supervisor.listeners import Access, Inherited, Listeners
from serverd.supervisor.spawn import Started

from .support.daemon import wait_until


def request(target: bytes) -> RequestReceived:
    return RequestReceived("GET", target, target, b"", "1.1", [(b"host", b"x")])


# The question to the master


def test_the_master_is_asked_once_however_many_want_to_know() -> None:
    asked: list[float] = []

    async def scenario() -> list[float]:
        pulse = Pulse(lambda: asked.append(0.0))
        waiting = [asyncio.ensure_future(pulse.silence()) for _ in range(5)]
        await asyncio.sleep(0)
        pulse.heard()
        return await asyncio.gather(*waiting)

    assert asyncio.run(scenario()) == [0.0] * 5
    assert len(asked) == 1


def test_silence_is_counted_from_the_question_that_was_not_answered() -> None:
    asked: list[float] = []

    async def scenario() -> tuple[float, float, float]:
        pulse = Pulse(lambda: asked.append(0.0))
        first = await pulse.silence()
        second = await pulse.silence()
        asyncio.get_running_loop().call_later(PATIENCE / 3, pulse.heard)
        return first, second, await pulse.silence()

    first, second, third = asyncio.run(scenario())
    assert PATIENCE <= first < second
    assert second >= 2 * PATIENCE
    assert third == 0.0
    assert len(asked) == 1


# The master's ear


class Ear:
    """An Admin that believes to have started a process, and the other end of its channel."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.listeners = Listeners(Inherited())
        self.arena = Arena.create()
        self.admin = Admin(self.selector, self.listeners, self.arena, waits=False)
        above, self.below = Channel.pair()
        above.sock.setblocking(False)
        self.pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        self.admin._process = Started(self.pid, os.pidfd_open(self.pid), above)
        self.selector.register(above, selectors.EVENT_READ, self.admin._hear)

    def turn(self) -> None:
        for key, _ in self.selector.select(5):
            key.data()


@pytest.fixture
def ear() -> Iterator[Ear]:
    found = Ear()
    yield found
    found.admin.close()
    found.below.close()
    found.arena.close()
    found.selector.close()


def test_a_question_is_answered_and_nonsense_is_not(ear: Ear) -> None:
    for packet in (b"what?", b"{}", PING, b"\xff" * 64, PING):
        ear.below.sock.send(packet)
    ear.turn()
    ear.below.sock.setblocking(False)
    assert [ear.below.sock.recv(64) for _ in range(2)] == [PONG, PONG]
    with pytest.raises(BlockingIOError):
        ear.below.sock.recv(64)


def test_a_flood_takes_a_bounded_part_of_a_turn_and_an_answer_that_nobody_reads_is_dropped(ear: Ear) -> None:
    ear.below.sock.setblocking(False)
    sent = 0
    while True:
        try:
            ear.below.sock.send(PING)
        except BlockingIOError:
            break
        sent += 1
    began = time.monotonic()
    ear.turn()
    assert time.monotonic() - began < 1.0
    assert sent > 16
    answers = 0
    while True:
        try:
            answers += ear.below.sock.recv(64) == PONG
        except BlockingIOError:
            break
    assert answers == 16


def test_one_that_waits_is_told_when_it_may_begin(ear: Ear) -> None:
    ear.admin.begin()
    assert ear.below.sock.recv(64) == GO
    ear.below.close()
    ear.admin.begin()  # to one that has died: no harm


def test_the_end_of_the_channel_is_heard_once(ear: Ear) -> None:
    ear.below.sock.shutdown(socket.SHUT_RDWR)
    ear.turn()
    assert ear.selector.select(0) == []


# What it is told, and when it runs


def test_it_is_due_only_when_it_is_wanted_and_nobody_has_taken_over() -> None:
    selector, listeners, arena = selectors.DefaultSelector(), Listeners(Inherited()), Arena.create()
    config = ServerConfig(app="a:b", admin=AdminConfig(listen=TcpAddress("127.0.0.1", 0)))
    listeners.open([config.admin.listen] if config.admin else [], 8, Access())
    admin = Admin(selector, listeners, arena, waits=True)
    assert admin.due() == float("inf")
    admin.configure(config, None)
    assert admin.due() <= time.monotonic(), "it is there when it may begin"
    admin.configure(ServerConfig(app="a:b"), None)
    assert admin.due() == float("inf")
    assert listeners.all() == [], "what nobody serves is closed"
    admin.end()
    admin.configure(config, None)
    assert admin.due() == float("inf")
    without_memory = Admin(selector, listeners, None, waits=False)
    without_memory.configure(config, None)
    assert without_memory.due() == float("inf")
    arena.close()
    selector.close()


def test_an_order_travels_as_text() -> None:
    order = AdminOrder((5, 7), 9, 2.5, "a 'title'", "info", "json")
    assert AdminOrder.from_json(order.as_json()) == order


# The shared memory


def facts(**more: object) -> dict[str, object]:
    found: dict[str, object] = {
        "v": 1, "pid": os.getpid(), "state": "serving", "started": 1.0, "children": [], "generation": 1,
        "totals": Totals().as_json(),
    }  # fmt: skip
    return {**found, **more}


def test_before_anything_is_published_there_is_nothing() -> None:
    arena = Arena.create()
    assert Reader(arena)() is None
    arena.close()


def test_roles_and_states_come_from_the_slots() -> None:
    arena = Arena.create()
    region = arena.allot(8)
    assert region is not None
    scores = Scores.open(arena.fd, region)
    main, loop, busy, idle = (scores.take() for _ in range(4))
    for slot, role in ((main, MAIN), (loop, LOOP), (busy, 0), (idle, 0)):
        slot.enter(role)
    loop.wait(request(b"/ws"), time.monotonic(), WEBSOCKET)
    busy.end(200, 10, 0.002)
    busy.begin(request(b"/slow"), time.monotonic())
    scores.count(2, 3, 1 << 20, [4, 0, 0, 1, 0, 0, 0, 0])
    child = {
        "name": "worker 0 g1", "index": 0, "generation": 1, "pid": os.getpid(), "state": "ready", "since": 1.0,
        "gil": False, "offset": region.offset, "slots": region.slots,
    }  # fmt: skip
    write_page(arena, 1, json.dumps(facts(children=[child])).encode())
    found = Reader(arena)()
    assert found is not None
    (shown,) = found.children
    assert [(thread.slot, thread.state, thread.home) for thread in shown.threads] == [
        (1, "idle", True), (2, "running", False), (3, "idle", False),
    ]  # fmt: skip
    assert shown.states == {"idle": 1, "running": 1, "reading": 0, "writing": 0}
    assert (shown.threads[1].path, shown.threads[1].request) == ("/slow", "0.1-2-2")
    assert [thread.waiting for thread in shown.threads] == [1, 0, 0]
    assert shown.held == {"request": 0, "websocket": 1, "event stream": 0}
    assert [item.path for item in shown.waiting] == ["/ws"]
    assert shown.connections["idle"] == 4
    assert shown.accept_pauses == 3
    assert shown.resident > 1e6
    assert found.figures.by_status["2xx"] == 1
    assert found.figures.latency.total == pytest.approx(0.002)
    arena.close()


@pytest.mark.parametrize(
    "page",
    [
        b"{}", b'{"pid": 1}', b"\xff", json.dumps(facts(children=[{}])).encode(),
        json.dumps(facts(children=7)).encode(), json.dumps(facts(totals={"rows": []})).encode(),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_said_once_and_is_nothing(
    page: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    arena = Arena.create()
    write_page(arena, 1, page)
    read = Reader(arena)
    with caplog.at_level(logging.ERROR, "serverd.admin"):
        logging.getLogger(
            "serverd"
        ).propagate = True  # setup_logging of another test may have switched it off
        assert read() is None
        assert read() is None
    assert len([record for record in caplog.records if "shared memory" in record.message]) == 1
    arena.close()


def test_an_end_that_is_told_is_awaited_and_a_late_one_is_killed(ear: Ear) -> None:
    ear.admin.end()
    assert list(ear.admin.belongings()), "until it is reaped"
    os.kill(ear.pid, signal.SIGTERM)
    ear.turn()
    assert list(ear.admin.belongings()) == []
    wait_until(lambda: not os.path.exists(f"/proc/{ear.pid}"), "reaped")


def test_a_master_without_memory_hears_on(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one call that fails it would not listen any more, and /livez be red for good."""

    class Short:
        def recv(self, size: int) -> bytes:
            raise OSError(errno.ENOBUFS, "No buffer space available")

    assert ear.admin._process is not None
    channel = ear.admin._process.channel
    ear.below.sock.send(PING)
    with monkeypatch.context() as patch:
        patch.setattr(channel, "sock", Short())
        with pytest.raises(OSError, match="No buffer space"):  # the master's loop goes on
            ear.admin._hear()
    ear.turn()
    assert ear.below.sock.recv(64) == PONG
