"""Blocking calls of asyncio, anyio and asgiref run on the worker's own thread, and behave as they would in another."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from typing import Any

import anyio.to_thread
import pytest
from asgiref.sync import sync_to_async

from serverd.server.asgi.run_sync import patch_libraries

from .support.apps import Receive, Send, reply
from .support.daemon import wait_until
from .support.workers import serving

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def by_asyncio(func: Any, *args: Any) -> Any:
    return await asyncio.to_thread(func, *args)


async def by_anyio(func: Any, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(func, *args)


async def by_asgiref(func: Any, *args: Any) -> Any:
    return await sync_to_async(func)(*args)


async def by_executor(func: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, func, *args)


ALL = [by_asyncio, by_anyio, by_asgiref, by_executor]


@pytest.fixture(autouse=True)
def patched() -> None:
    patch_libraries()
    patch_libraries()  # twice is as once


def answer(run: Any, func: Any) -> list[Any]:
    """What ``func`` gave (or raised) when a request ran it through ``run``, and the thread of the request."""
    seen: list[Any] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.append(threading.get_ident())
        try:
            seen.append(await run(func))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test looks at it
            seen.append(exc)
        seen.append(asyncio.current_task() is not None)
        await reply(send, b"ok")

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().status == 200
    return seen


@pytest.mark.parametrize("run", ALL)
def test_it_runs_on_the_same_thread_and_sees_no_loop(run: Any) -> None:
    def func() -> tuple[int, bool]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return threading.get_ident(), True
        return threading.get_ident(), False

    thread, (inner, no_loop), task = answer(run, func)
    assert inner == thread
    assert no_loop
    assert task


@pytest.mark.parametrize("run", ALL)
def test_an_exception_comes_through(run: Any) -> None:
    def func() -> None:
        raise ValueError("inner")

    _, exc, _ = answer(run, func)
    assert isinstance(exc, ValueError)


@pytest.mark.parametrize("run", ALL)
def test_a_blocking_function_may_run_a_loop_of_its_own(run: Any) -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    assert answer(run, lambda: asyncio.run(inner()))[1:] == ["inner", True]


@pytest.mark.parametrize(
    ("run", "after"), [(by_asyncio, "unset"), (by_anyio, "unset"), (by_asgiref, "changed")]
)
def test_context_variables_behave_as_documented(run: Any, after: str) -> None:
    seen: list[str] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await run(variable.set, "changed")
        seen.append(variable.get())
        await reply(send, b"ok")

    with serving(app, threads=1) as served, served.connect() as client:
        client.get()
        client.get()
    assert seen == [after, after]


@pytest.mark.parametrize("run", ALL)
def test_it_goes_to_another_thread_while_another_request_waits_here(run: Any) -> None:
    gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
    threads: list[tuple[int, int]] = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            loop = asyncio.get_running_loop()
            gates.append((loop, loop.create_future()))
            await gates[-1][1]
        else:
            threads.append((threading.get_ident(), await run(threading.get_ident)))
        await reply(send, b"ok")

    with serving(app, threads=1) as served, served.connect() as waiting, served.connect() as client:
        waiting.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: gates)
        client.get()
        loop, gate = gates[0]
        loop.call_soon_threadsafe(gate.set_result, None)
        assert waiting.response().status == 200
        wait_until(served.workers[0].is_idle)
        client.get()
    (here, elsewhere), (again, same) = threads
    assert here == again == same
    assert elsewhere != here


def test_elsewhere_the_libraries_do_what_they_always_did() -> None:
    async def main() -> tuple[int, int]:
        return await asyncio.to_thread(threading.get_ident), await anyio.to_thread.run_sync(
            threading.get_ident
        )

    assert threading.get_ident() not in asyncio.run(main())


def test_a_limiter_of_the_applications_own_is_honoured() -> None:
    async def with_limiter(func: Any) -> Any:
        return await anyio.to_thread.run_sync(func, limiter=anyio.CapacityLimiter(1))

    thread, inner, _ = answer(with_limiter, threading.get_ident)
    assert inner != thread


@pytest.mark.parametrize("run", ALL)
def test_a_call_that_waits_for_another_task_goes_to_another_thread(run: Any) -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        things: queue.SimpleQueue[int] = queue.SimpleQueue()

        async def produce() -> None:
            await asyncio.sleep(0)
            things.put(7)

        task = asyncio.create_task(produce())
        seen.append(await run(things.get))
        await task
        await reply(send, b"ok")

    seen: list[int] = []
    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().status == 200
    assert seen == [7]


def test_waiting_for_the_loop_that_stands_still_raises_and_does_not_hang() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        def wait_for_loop() -> None:
            coro = asyncio.sleep(0)
            try:
                asyncio.run_coroutine_threadsafe(coro, loop).result()
            finally:
                coro.close()

        with pytest.raises(RuntimeError, match="event loop's own thread"):
            await asyncio.to_thread(wait_for_loop)
        await reply(send, b"ok")

    with serving(app, threads=1) as served, served.connect() as client:
        assert client.get().status == 200


def test_what_runs_after_the_response_has_begun_holds_no_thread() -> None:
    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await reply(send, b"ok")
        seen.append((threading.get_ident(), await asyncio.to_thread(threading.get_ident)))

    seen: list[tuple[int, int]] = []
    with serving(app, threads=1) as served, served.connect() as client:
        client.get()
        wait_until(lambda: seen)
    assert seen[0][0] != seen[0][1]
