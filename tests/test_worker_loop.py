"""The worker's loop knows whether it has something to do. Fails when asyncio renames what it looks at."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import warnings
from typing import Any

import pytest

from serverd.server.worker_loop import WorkerLoop


def test_busy_while_a_callback_a_timer_or_a_task_waits() -> None:
    loop = WorkerLoop()
    seen: dict[str, bool] = {}
    idle: list[bool] = []
    loop.on_idle = lambda: idle.append(True)

    def look() -> None:
        seen["nothing"] = loop.busy
        ready = loop.call_soon(print)
        seen["callback"] = loop.busy
        ready.cancel()
        loop.call_soon(look_at_timer)

    def look_at_timer() -> None:
        timer = loop.call_later(3600, print)
        seen["timer"] = loop.busy
        timer.cancel()
        seen["cancelled timer"] = loop.busy
        tasks.append(loop.create_task(asyncio.sleep(3600)))
        loop.call_soon(look_at_task)

    def look_at_task() -> None:
        seen["task"] = loop.busy
        assert loop.left_behind == 1
        tasks[0].cancel()
        tasks[0].add_done_callback(lambda _: loop.call_soon(finish))

    def finish() -> None:
        seen["ended task"] = loop.left_behind > 0
        loop.stop()

    tasks: list[asyncio.Task[None]] = []
    loop.call_soon(look)
    loop.run_forever()
    loop.close()
    assert seen == {
        "nothing": False,
        "callback": True,
        "timer": True,
        "cancelled timer": False,
        "task": True,
        "ended task": False,
    }
    assert idle == [True]


@pytest.mark.parametrize("call", ["socketpair", "eventfd"])
def test_a_loop_for_which_there_are_no_descriptors(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and leaves nothing open and nothing to be said when it is collected, where asyncio closes it."""

    def fail(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # "unclosed event loop", which asyncio says of any such
        patch.setattr(socket if call == "socketpair" else os, call, fail)
        with pytest.raises(OSError, match="Too many open files"):
            WorkerLoop()
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
