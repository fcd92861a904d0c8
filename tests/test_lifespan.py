"""The lifespan on the home loop: complete, failed, unsupported, and its background tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.server.asgi.lifespan import Lifespan, LifespanFailed
from serverd.server.async_pool import AsyncPool

from .support.apps import Receive, Send


@pytest.fixture
def pool() -> Iterator[AsyncPool]:
    pool = AsyncPool()
    pool.start()
    yield pool
    assert pool.stop()


def test_startup_state_and_shutdown(pool: AsyncPool) -> None:
    ticks = threading.Semaphore(0)
    stages: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        async def tick() -> None:
            while True:
                ticks.release()
                await asyncio.sleep(0.001)

        assert scope["type"] == "lifespan"
        stages.append((await receive())["type"])
        scope["state"]["database"] = "open"
        task = asyncio.create_task(tick())
        await send({"type": "lifespan.startup.complete"})
        stages.append((await receive())["type"])
        task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app)
    pool.call(lifespan.startup()).result(10)
    assert lifespan.supported
    assert lifespan.state == {"database": "open"}
    for _ in range(3):
        assert ticks.acquire(timeout=10)
    pool.call(lifespan.shutdown()).result(10)
    assert stages == ["lifespan.startup", "lifespan.shutdown"]


async def raises_on_scope(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    assert scope["type"] == "http", "only http here"


async def returns_at_once(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    return


@pytest.mark.parametrize("app", [raises_on_scope, returns_at_once])
def test_an_application_without_lifespan_is_served_without(pool: AsyncPool, app: Any) -> None:
    lifespan = Lifespan(app)
    pool.call(lifespan.startup()).result(10)
    assert not lifespan.supported
    pool.call(lifespan.shutdown()).result(10)


def test_an_exception_in_startup_is_a_failure_with_its_traceback(pool: AsyncPool) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("no database")

    with pytest.raises(LifespanFailed, match="ValueError: no database") as error:
        pool.call(Lifespan(app).startup()).result(10)
    assert "Traceback" in error.value.text


def test_startup_failed_with_a_message(pool: AsyncPool) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback…\nValueError: no database\n"})

    with pytest.raises(LifespanFailed, match=r"^ValueError: no database$"):
        pool.call(Lifespan(app).startup()).result(10)


def test_a_failing_shutdown_is_logged(pool: AsyncPool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("cannot close")

    lifespan = Lifespan(app)
    pool.call(lifespan.startup()).result(10)
    pool.call(lifespan.shutdown()).result(10)
    assert "cannot close" in caplog.text
