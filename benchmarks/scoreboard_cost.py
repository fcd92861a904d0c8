"""What the scoreboard costs a request: nanoseconds of what a thread does for each in its slot.

    python benchmarks/scoreboard_cost.py

The steps are those of `AppRunner` and `Exchange`: begin, count, idle; with the same request again and again (clients
that come back), and with another each time, whose path is written. Best of 60 runs of 20,000, so that other work on the
machine counts little; the empty loop is taken off.
"""

# ruff: noqa: INP001 - a script and not a module of a package

from __future__ import annotations

import time
from collections.abc import Sequence

from serverd.server.arena import Arena
from serverd.server.http.events import RequestReceived
from serverd.server.slots import SINCE, Scores, Slot

ROUNDS = 20_000
RUNS = 60


def serve(slot: Slot, requests: Sequence[RequestReceived]) -> None:
    """As the two modules do it."""
    since = 12.5
    for request in requests:
        slot.times[SINCE] = since
        if request is not slot.request:
            slot.describe(request)
        slot.end(200, 13, 0.0001)
        slot.times[SINCE] = 0.0


def nothing(slot: Slot, requests: Sequence[RequestReceived]) -> None:
    """The loop itself."""
    since = 12.5
    for request in requests:
        _ = slot, request, since


def main() -> None:
    """Measure, and print two lines."""
    arena = Arena.create()
    region = arena.allot(1)
    assert region is not None
    slot = Scores.open(arena.fd, region).take()
    one, other = (RequestReceived("GET", path, path, b"", "1.1", []) for path in (b"/", b"/notes/12"))
    for what, pair in (("the same request again", (one, one)), ("another request each time", (one, other))):
        requests = pair * (ROUNDS // 2)
        best: dict[str, float] = {}
        for _ in range(RUNS):
            for work in (nothing, serve):
                began = time.thread_time()
                work(slot, requests)
                took = (time.thread_time() - began) / ROUNDS * 1e9
                best[work.__name__] = min(best.get(work.__name__, took), took)
        print(f"{what}: {best['serve'] - best['nothing']:.0f} ns")


if __name__ == "__main__":
    main()
