"""The worker's loop knows whether it has something to do. Fails when asyncio renames what it looks at."""

from __future__ import annotations

import asyncio

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
