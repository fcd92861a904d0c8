"""LoopWatcher: add_reader and add_writer as asyncio has them, on an epoll of our own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from serverd.server.loop_watcher import LoopWatcher


def run(body: Any) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        watcher = LoopWatcher(asyncio.get_running_loop())
        with ours, theirs:
            ours.setblocking(False)
            try:
                await asyncio.wait_for(body(watcher, ours, theirs), 10)
            finally:
                watcher.remove_reader(ours.fileno())
                watcher.remove_writer(ours.fileno())
                watcher.close()

    asyncio.run(main())


def test_a_reader_is_called_as_long_as_there_is_something() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        seen: list[bytes] = []
        done = asyncio.Event()

        def read(size: int) -> None:
            seen.append(ours.recv(size))
            if len(b"".join(seen)) == 6:
                done.set()

        watcher.add_reader(ours.fileno(), read, 2)
        theirs.send(b"abcdef")
        await done.wait()
        assert seen == [b"ab", b"cd", b"ef"]
        assert watcher.remove_reader(ours.fileno())
        assert not watcher.remove_reader(ours.fileno())
        theirs.send(b"more")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(seen) == 3

    run(body)


def test_a_reader_and_a_writer_of_one_descriptor_come_and_go_alone() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        written, read = asyncio.Event(), asyncio.Event()
        fd = ours.fileno()
        watcher.add_reader(fd, read.set)
        watcher.add_writer(fd, written.set)
        await written.wait()
        assert not read.is_set()
        assert watcher.remove_writer(fd)
        theirs.send(b"x")
        await read.wait()

    run(body)


def test_a_callback_may_be_replaced() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        first, second = asyncio.Event(), asyncio.Event()
        watcher.add_reader(ours.fileno(), first.set)
        watcher.add_reader(ours.fileno(), second.set)
        theirs.send(b"x")
        await second.wait()
        assert not first.is_set()

    run(body)


def test_the_end_of_the_peer_calls_both() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        read, written = asyncio.Event(), asyncio.Event()
        theirs.close()
        watcher.add_reader(ours.fileno(), read.set)
        await read.wait()
        watcher.remove_reader(ours.fileno())
        watcher.add_writer(ours.fileno(), written.set)
        await written.wait()

    run(body)


def test_a_mistake_of_one_callback_is_not_the_others() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        other, far = socket.socketpair()
        good = asyncio.Event()

        def fail() -> None:
            watcher.remove_reader(ours.fileno())
            raise ValueError("mistake")

        with other, far:
            watcher.add_reader(ours.fileno(), fail)
            watcher.add_reader(other.fileno(), good.set)
            theirs.send(b"x")
            far.send(b"x")
            await good.wait()
            watcher.remove_reader(other.fileno())
        assert [str(context["exception"]) for context in told] == ["mistake"]

    run(body)


def test_a_descriptor_that_is_none_is_refused_and_forgotten() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        other, far = socket.socketpair()
        number = other.fileno()
        other.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            watcher.add_reader(number, print)
        far.close()
        assert not watcher.remove_reader(number)

    run(body)


def test_after_close_nothing_is_watched_and_taking_back_is_no_error() -> None:
    async def body(watcher: LoopWatcher, ours: socket.socket, theirs: socket.socket) -> None:
        last = LoopWatcher(asyncio.get_running_loop())
        last.add_reader(ours.fileno(), print)
        last.add_writer(ours.fileno(), print)
        last.close()
        assert not last.remove_reader(ours.fileno())
        assert not last.remove_writer(ours.fileno())
        with pytest.raises(OSError, match="about to end"):
            last.add_reader(ours.fileno(), print)

    run(body)
