"""The main thread's part in threads that come and go, on a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.config import LimitsConfig, ServerConfig, ThreadRange, WorkersConfig
from serverd.server.app_loader import LoadedApp, no_asgi
from serverd.server.async_pool import AsyncPool
from serverd.server.conn_queue import ConnectionQueue
from serverd.server.elastic import CALM
from serverd.server.load_keeper import TICK, LoadKeeper, Probe
from serverd.server.slots import WAITS, nowhere
from serverd.server.workforce import Workforce

from .support.apps import reply
from .support.client import RawClient
from .support.daemon import wait_until


class Child:
    """Workers of a WSGI application whose requests last until ``go_on`` is set, and their keeper."""

    def __init__(self, threads: int | ThreadRange, limits: LimitsConfig) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.pause = 0.0
        self.calls = 0  # of the application; read where there is one thread
        self.queue = ConnectionQueue()
        config = ServerConfig(app="test:app", workers=WorkersConfig(threads=threads), limits=limits)
        app = LoadedApp("test:app", "wsgi", no_asgi, None, None, wsgi_app=self.app)
        self.force = Workforce(config, app, self.queue, AsyncPool(), None, lambda: None)
        self.force.start()
        self.slot = nowhere()
        self.poll = select.poll()
        self.keeper = LoadKeeper(config, self.queue, self.force, self.poll, self.slot, 64)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = self.listener.getsockname()
        self.queue.add_listener(self.listener)
        self.now = time.monotonic()

    def app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        self.go_on.wait(10)
        threading.Event().wait(self.pause)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def tick(self, seconds: float = TICK) -> float:
        """The main thread's next turn, so many seconds later; when it wants to be called again, from then on."""
        self.now = max(self.now + seconds, time.monotonic())
        return self.keeper.tend(self.now) - self.now

    def threads(self) -> int:
        return self.force.busy()[1]


@contextlib.contextmanager
def child(threads: int | ThreadRange, limits: LimitsConfig | None = None) -> Iterator[Child]:
    made = Child(threads, limits or LimitsConfig())
    try:
        yield made
    finally:
        made.go_on.set()
        made.queue.wake()
        made.force.leave(10)
        made.queue.release()


def asked(stack: contextlib.ExitStack, made: Child, number: int) -> list[RawClient]:
    clients = [stack.enter_context(RawClient(made.address)) for _ in range(number)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return clients


def grown(stack: contextlib.ExitStack, made: Child) -> list[RawClient]:
    """Requests that hold every thread of ``made``, which has as many as it may have."""
    made.go_on.clear()
    clients = asked(stack, made, 12)

    def all_there() -> bool:
        made.tick()
        threading.Event().wait(0.03)  # the use of the CPU is that of a moment
        return made.threads() == 8

    wait_until(all_there, "eight threads")
    return clients


def quiet(made: Child) -> float:
    """Let the keeper look until it sleeps; how long it wants to."""
    return wait_until(lambda: seconds if (seconds := made.tick()) > 1.5 * TICK else 0, "the keeper sleeps")


def test_threads_leave_when_they_are_not_needed() -> None:
    with contextlib.ExitStack() as stack, child(ThreadRange(2, 8)) as made:
        clients = grown(stack, made)
        made.go_on.set()
        assert [client.response().status for client in clients] == [200] * 12
        assert 0 < quiet(made) <= CALM
        seen = [8]
        for _ in range(100):  # three would do, and each moment in which one had to wait for a CPU is one more
            if seen[-1] == 2:
                break
            made.tick(CALM)  # the first time it finds that all were busy a moment ago
            quiet(made)
            wait_until(lambda: len(made.force._now()) == made.threads())
            if made.threads() != seen[-1]:
                seen.append(made.threads())
        assert seen[-1] == 2
        assert seen == sorted(seen, reverse=True)
        assert len(seen) <= 5
        assert quiet(made) == float("inf")  # nothing to do any more
        for client in clients:  # and what is left serves
            assert client.get().status == 200
        assert made.force.requests() == 24


def test_threads_that_are_held_stay() -> None:
    with contextlib.ExitStack() as stack, child(ThreadRange(2, 8)) as made:
        clients = grown(stack, made)
        for _ in range(5):
            made.tick(CALM)
        assert made.threads() == 8
        made.go_on.set()
        assert [client.response().status for client in clients] == [200] * 12


def test_a_machine_without_threads(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with contextlib.ExitStack() as stack, child(ThreadRange(2, 8)) as made:
        made.go_on.clear()
        clients = asked(stack, made, 6)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)

            def resigned() -> bool:
                made.tick()
                threading.Event().wait(0.03)
                return "no thread more than 2: trying again in 10 s" in caplog.text

            wait_until(resigned)
            for _ in range(20):
                made.tick()
            assert caplog.text.count("cannot start a thread: can't start new thread") == 1
        made.go_on.set()
        assert [client.response().status for client in clients] == [200] * 6


def test_a_fixed_number_of_threads_is_only_looked_at() -> None:
    """Also then the waits of all requests are counted, and the backlog is no place to starve in."""
    with contextlib.ExitStack() as stack, child(1) as made:
        (first,) = asked(stack, made, 1)
        assert first.response().status == 200
        quiet(made)
        made.go_on.clear()
        first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        # Before that, the thread may accept one more: it is not yet waiting for the first one again.
        wait_until(lambda: made.calls == 2)
        clients = asked(stack, made, 20)
        wait_until(lambda: made.tick() and made.queue.congested)
        assert made.queue.open == 1
        made.go_on.set()
        assert clients[0].response().status == 200
        wait_until(lambda: made.queue.open == 21)
        assert {client.response().status for client in (first, *clients[1:])} == {200}
        wait_until(lambda: not made.queue.congested or not made.tick())
        quiet(made)
        assert sum(made.slot._numbers[WAITS : WAITS + 16]) == 22
        assert made.threads() == 1


def test_the_log_says_when_an_overload_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with contextlib.ExitStack() as stack, child(1, LimitsConfig(queue_wait=0.05)) as made:
        made.go_on.clear()
        clients = asked(stack, made, 20)
        end = time.monotonic() + 0.3
        wait_until(lambda: made.tick() and time.monotonic() > end)
        made.pause = 0.03  # each request from now on
        made.go_on.set()
        wait_until(lambda: made.tick() and "overload: requests wait 0." in caplog.text)
        refused = [client.response().status for client in clients].count(503)
        assert 0 < refused < 20
        made.tick()
        for _ in range(10):
            made.tick(1.0)
        assert f"the overload is over: {refused} requests were answered 503 in 1 s" in caplog.text
        assert caplog.text.count("overload") == 2


def test_all_of_the_backlog_is_taken_while_no_thread_is_idle() -> None:
    queue = ConnectionQueue(max_connections=4)
    queue.alone = True
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(6)]
        queue.add_listener(listener)
        queue.congested = True
        first = queue.get(5)
        assert first is not None
        assert first.peer == clients[0].getsockname()
        assert queue.open == 4  # it is full
        assert queue.get(0) is None
        queue.congested = False
        queue.close(first)
        queue.tend(time.monotonic() + 1, queue.close)
        fourth = queue.get(5)
        assert fourth is not None
        assert fourth.peer == clients[4].getsockname()
        queue.release()


def test_no_request_is_lost_while_threads_come_and_go() -> None:
    with child(ThreadRange(1, 8)) as made:
        over = threading.Event()
        answered: list[int] = []
        failures: list[Exception] = []

        def load() -> None:
            try:
                with RawClient(made.address) as client:
                    while not over.is_set():
                        answered.append(client.get().status)
            except Exception as exc:  # noqa: BLE001 - the test looks at it
                failures.append(exc)

        clients = [threading.Thread(target=load) for _ in range(6)]
        for client in clients:
            client.start()
        changes = 0
        end = time.monotonic() + 15
        while changes < 5 and time.monotonic() < end:
            if made.threads() == 1:
                assert made.force.grow(7) == 7
                changes += 1
            else:
                made.force.shrink(1)
            threading.Event().wait(0.005)
        over.set()
        for client in clients:
            client.join(10)
        assert not failures
        assert set(answered) == {200}
        assert made.force.requests() == len(answered)
        assert changes == 5
        assert len(answered) > 100


def test_a_thread_with_a_task_in_its_loop_stays_until_that_has_ended() -> None:
    ended: list[str] = []
    go_on: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    tasks: list[asyncio.Task[None]] = []

    async def later(event: asyncio.Event) -> None:
        try:
            await event.wait()
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def app(scope: Any, receive: Any, send: Any) -> None:
        go_on.append((asyncio.get_running_loop(), asyncio.Event()))
        tasks.append(asyncio.create_task(later(go_on[0][1])))
        await reply(send, b"ok")

    queue = ConnectionQueue()
    config = ServerConfig(app="test:app", workers=WorkersConfig(threads=ThreadRange(1, 4)))
    pool = AsyncPool()
    pool.start()
    loaded = LoadedApp("test:app", "asgi", app, None, None)
    force = Workforce(config, loaded, queue, pool, None, lambda: None)
    force.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        queue.add_listener(listener.dup())
        with RawClient(listener.getsockname()) as client:
            assert client.get().status == 200
            assert force.grow(3) == 3
            for _ in range(5):  # the one with the task may take the event that is meant for the others
                force.shrink(1)
                threading.Event().wait(0.02)
            force.shrink(1)
            wait_until(lambda: force.busy()[1] < 4)
            assert force.left_behind() == 1
            assert not ended
            loop, event = go_on[0]
            loop.call_soon_threadsafe(event.set)
            wait_until(lambda: ended == ["done"])
    queue.wake()
    force.leave(10)
    assert pool.stop()
    queue.release()


def test_a_probe_that_the_kernel_has_no_memory_for_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the child would count as congested for ever, and refuse what waits for nothing."""
    queue = ConnectionQueue()
    probe = Probe(queue)
    monkeypatch.setattr(probe, "something_waits", lambda: True)
    with monkeypatch.context() as patched:
        patched.setattr(queue.errands, "arm", lambda fd: False)
        assert probe.look(1.0) == probe.delay(100.0) == 0.0
        assert not probe.is_sent
    assert probe.look(2.0) == 0.0
    assert probe.delay(3.0) == 1.0, "the next look has sent it"
    queue.release()


def test_the_kernel_says_no_to_a_probe(caplog: pytest.LogCaptureFixture) -> None:
    queue = ConnectionQueue()
    assert not queue.errands.arm(10_000)
    assert "epoll_ctl failed" in caplog.text
    queue.release()
