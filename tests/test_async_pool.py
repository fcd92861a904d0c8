"""AsyncPool and the loops of workers: a failing system call ends neither the boot in silence nor a loop."""

from __future__ import annotations

import asyncio
import errno
import selectors
import threading
from typing import Any

import pytest

from serverd.server import async_pool
from serverd.server.async_pool import AsyncPool

from .support.apps import Receive, Send, reply
from .support.workers import serving


def test_a_loop_that_cannot_be_made_is_an_error_and_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(async_pool, "_loop_factory", lambda kind: refuse)
    pool = AsyncPool()
    failures: list[BaseException] = []

    def start() -> None:
        try:
            pool.start()
        except OSError as exc:
            failures.append(exc)

    starter = threading.Thread(target=start, daemon=True)
    starter.start()
    starter.join(5)
    assert [str(failure) for failure in failures] == ["[Errno 24] Too many open files"]
    assert pool.stop()


class Failing(selectors.EpollSelector):
    """Out of memory for one call, once it is told."""

    failures = 0

    def select(self, timeout: float | None = None) -> Any:
        if Failing.failures:
            Failing.failures -= 1
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return super().select(timeout)


async def wait_a_little(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["path"] == "/fail":
        Failing.failures = 2
    await asyncio.sleep(0.01)
    await reply(send, b"here")


@pytest.mark.parametrize("by", ["threads", "asyncio"])
def test_no_memory_for_one_wait_ends_no_loop(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", Failing)
    monkeypatch.setattr(async_pool, "_loop_factory", lambda kind: None)
    with serving(wait_a_little, threads=1, by=by) as served, served.connect() as client:
        client.sock.settimeout(5)
        for path in ("/", "/fail", "/", "/fail", "/"):
            assert client.get(path).body == b"here"
