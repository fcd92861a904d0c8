"""The section `slow-among-fast`: what one slow request at a time does to the fast ones beside it.

Fast requests come at a fixed rate, whether the earlier ones are answered or not, and are timed from when they were due
(rate_load.py). In every second phase one more client asks for something that takes 75 ms (apps/slow_among_fast.py),
again and again. What counts is the 99th percentile of the fast ones with it by that of the phase just before. serverd
has a process with at least four threads, so that one is free; the peers have a process for each CPU. All CPUs are the
servers', and the load shares them: at this rate it takes little. One thread calls all of this.
"""

import http.client
import os
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from . import contestants, load, rate_load, servers, trials
from .contestants import APPS
from .measure import progress
from .report import Section, Verdict
from .sections import Settings
from .trials import Trial

APP = "slow_among_fast:app"
BODY = b'{"message":"Hello, World!"}'
VARIANTS = {
    "sleep": "asleep in a `def`",
    "sleep-async": "asleep in an `async def`",
    "compute": "computing in a `def`",
}
THREADS = 4
RATE, CONNECTIONS, SECONDS = 1000.0, 32, 0.8
ROUNDS, PEER_ROUNDS = 5, 2
GOAL = 1.2


class Slow:
    """One client that asks for `path` again and again, from the beginning of a `with` block to its end."""

    def __init__(self, port: int, path: str) -> None:
        self.answered = 0
        self.problem = ""
        self._port, self._path = port, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def _ask_on(self) -> None:
        """The body of the thread; it ends at the first wrong answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        wanted = f'{{"slow":"{self._path}"}}'.encode()
        try:
            while not self._stop.is_set():
                connection.request("GET", f"/{self._path}")
                response = connection.getresponse()
                if (body := response.read()) != wanted:
                    raise load.LoadError(f"{response.status} {body[:60]!r}")
                self.answered += 1
        except (OSError, http.client.HTTPException, load.LoadError) as error:
            self.problem = f"/{self._path}: {type(error).__name__}: {error}"
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def measure(settings: Settings) -> Section:
    """The table; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("slow-among-fast", "Not measured in a quick run.", "", (), (), right=True)
    cpus = frozenset(os.sched_getaffinity(0))
    threads = max(THREADS, len(cpus))
    name = f"serverd (1 process × {threads} threads)"
    rows = contestants.serverd(APP, APPS, name, {"workers.threads": str(threads)}, needs=("fastapi",))
    rows += contestants.uvicorn(APP, APPS, len(cpus))
    rows += contestants.granian(APP, APPS, "asgi", len(cpus))
    done = trials.wanted(rows, settings.only)
    asked = rate_load.exchange(settings.folder, "fast", rate_load.get(), BODY)
    with trials.running(
        done, {"": cpus}, settings.folder, lambda port: rate_load.check(asked, port)
    ) as found:
        for trial, server in found.items():  # warms up
            with trials.attempt(trial, server):
                rate_load.run(asked, server, cpus, CONNECTIONS, SECONDS, RATE)
        for number in range(ROUNDS):
            for trial, server in found.items():
                if trial.problem or number >= (ROUNDS if trial.kind == "serverd" else PEER_ROUNDS):
                    continue
                progress(f"slow-among-fast: round {number + 1} of {ROUNDS}: {trial}")
                with trials.attempt(trial, server):
                    trial.rounds.append(_round(asked, server, cpus))
    progress("")
    return _section(done)


def _round(asked: rate_load.Exchange, server: servers.Running, cpus: frozenset[int]) -> dict[str, Any]:
    """Each variant once, and before each of them the fast requests alone."""
    figures: dict[str, Any] = {"errors": 0, "others": 0.0}
    for variant in VARIANTS:
        alone = rate_load.run(asked, server, cpus, CONNECTIONS, SECONDS, RATE)
        with Slow(server.port, variant) as slow:
            beside = rate_load.run(asked, server, cpus, CONNECTIONS, SECONDS, RATE)
        if slow.problem or not slow.answered:
            raise load.LoadError(f"the slow client: {slow.problem or 'no answer'}")
        for run in (alone, beside):
            figures["errors"] += run["errors"] + run["unanswered"]
            figures["others"] += run["others"] / 2 / len(VARIANTS)
        figures |= {
            f"alone_{variant}": alone,
            f"beside_{variant}": beside,
            f"slow_{variant}": slow.answered,
            f"alone_p99_{variant}": alone["p99_us"],
            f"p99_{variant}": beside["p99_us"],
            f"ratio_{variant}": beside["p99_us"] / alone["p99_us"],
        }
    figures["alone_p99"] = sorted(figures[f"alone_p99_{variant}"] for variant in VARIANTS)[len(VARIANTS) // 2]
    return figures


def _section(done: list[Trial]) -> Section:
    """The table and what became of the goals."""
    heading = (
        f"FastAPI; {RATE:,.0f} fast requests a second over {CONNECTIONS} connections, alone and beside one client "
        f"whose requests take 75 ms; phases of {SECONDS:g} s in turn, {ROUNDS} rounds of serverd and {PEER_ROUNDS} of "
        "the others; all on the same CPUs."
    )
    table = trials.table(
        ("p99 ms alone", *(f"beside one {what}" for what in VARIANTS.values()), "errors"),
        done,
        lambda trial: (
            f"{trial.median('alone_p99') / 1000:.2f}",
            *(f"{trial.median(f'p99_{name}') / 1000:.2f} ({_ratios(trial, name)})" for name in VARIANTS),
            f"{trial.total('errors')}",
        ),
    )
    verdicts = [_verdict(done, variant, what) for variant, what in VARIANTS.items()]
    lines = [f"{verdict.aim}: {verdict.text}" for verdict in verdicts]
    lines.append(
        "With several processes it is chance which clients share one with the slow request: see the worst"
    )
    lines += [*trials.left_out(done), *trials.disturbed(done)]
    raw = [trial.as_json() for trial in done]
    return Section("slow-among-fast", heading, table, lines, raw, trials.right(done), verdicts)


def _ratios(trial: Trial, variant: str) -> str:
    """The median of the rounds, and the worst."""
    worst = max(one[f"ratio_{variant}"] for one in trial.rounds)
    return f"{trial.median(f'ratio_{variant}'):.2f} ×, at worst {worst:.1f} ×"


def _verdict(done: Collection[Trial], variant: str, what: str) -> Verdict:
    """The median of the rounds' ratios, and the same of the peers."""
    aim = f"p99 of fast requests beside one {what}: at most {GOAL} × alone"
    ours = next((trial for trial in done if trial.kind == "serverd" and trial.rounds), None)
    if not ours:
        return Verdict("slow-among-fast", aim, None, "not measured", None)
    ratio = ours.median(f"ratio_{variant}")
    text = f"{ratio:.2f} × ({ours.median(f'p99_{variant}') / 1000:.1f} ms)"
    for peer in done:
        if peer is not ours and peer.rounds:
            text += f"; {peer.short}: {_ratios(peer, variant)}"
    return Verdict("slow-among-fast", aim, ratio, text, ratio <= GOAL)
