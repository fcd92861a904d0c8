"""The section `start-up`: seconds from the start of a server's process until its first right answer.

Each server is started with a worker (serverd: a thread) for each CPU, on all CPUs, asked every few milliseconds until
it gives the right answer, and ended; in turn, round after round. The first starts of each are not counted: they fill
the page cache and write compiled files. Of the interpreters of a peer the one that was quicker in these goes on. One
thread calls all of this.
"""

import os
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from . import contestants, load, servers, trials
from .contestants import APPS, HELLO
from .measure import progress
from .report import Result, Section, Verdict
from .sections import Settings
from .trials import Trial

PAUSE = 0.004  # seconds between two questions: what a figure may be too long by
PATIENCE = 0.3  # seconds for a server to end by itself: how long that takes is not what is measured
WARMING, ROUNDS = 2, 5
APPLICATIONS = {
    "hello": ("hello:app", HELLO, load.HELLO, ()),
    "FastAPI": ("fastapi_json:app", APPS, b'{"message":"Hello, World!"}', ("fastapi",)),
}


def measure(settings: Settings) -> Section:
    """The table for both applications; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("start-up", "Not measured in a quick run.", "", (), (), right=True)
    cpus = frozenset(os.sched_getaffinity(0))
    done = [
        trial for what in APPLICATIONS for trial in trials.wanted(_rows(what, len(cpus)), settings.only, what)
    ]
    for number in range(1, WARMING + ROUNDS + 1):
        for trial in done:
            if not trial.problem:
                progress(f"start-up: {trial.key}: start {number} of {WARMING + ROUNDS}: {trial}")
                _start(trial, cpus, settings.folder)
        if number == WARMING:
            _choose(done)
    progress("")
    heading = (
        f"From the start of the process to the first right answer, a worker or thread for each of {len(cpus)} CPUs; "
        f"the median of {ROUNDS} starts, interleaved, with warm caches; asked every {PAUSE * 1000:.0f} ms."
    )
    table = trials.table(
        ("application", "seconds", "fastest", "slowest"),
        done,
        lambda trial: (
            trial.key,
            f"{trial.median('seconds'):.2f}",
            f"{min(one['seconds'] for one in trial.rounds):.2f}",
            f"{max(one['seconds'] for one in trial.rounds):.2f}",
        ),
    )
    verdicts = [_verdict(done, what) for what in APPLICATIONS]
    lines = [f"{verdict.aim}: {verdict.text}" for verdict in verdicts]
    raw = [trial.as_json() for trial in done]
    return Section("start-up", heading, table, lines, raw, trials.right(done), verdicts)


def _rows(what: str, count: int) -> contestants.Rows:
    """serverd and the peers with so many threads or workers."""
    app, folder, _, needs = APPLICATIONS[what]
    name = f"serverd (1 process × {count} thread{'s' if count > 1 else ''})"
    return [
        *contestants.serverd(app, folder, name, {"workers.threads": str(count)}, needs=needs),
        *contestants.uvicorn(app, folder, count),
        *contestants.granian(app, folder, "asgi", count),
        *contestants.gunicorn_asgi(app, folder, count),
    ]


def _start(trial: Trial, cpus: frozenset[int], folder: Path) -> None:
    """Once, with a folder of its own."""
    assert not isinstance(trial.row, Result), "a row without a command has a problem"
    home = Path(tempfile.mkdtemp(dir=folder))
    with trials.attempt(trial):
        begin = time.monotonic()
        with servers.Running(trial.row, cpus, home, pause=PAUSE) as server:
            _until_it_answers(server, APPLICATIONS[trial.key][2], begin + servers.START_SECONDS)
            trial.rounds.append({"seconds": time.monotonic() - begin, "errors": 0})
            server.stop(PATIENCE)


def _until_it_answers(server: servers.Running, body: bytes, deadline: float) -> None:
    """Ask until the answer is right: a port may be open before there is anybody behind it."""
    while True:
        try:
            load.check(server.port, body=body)
            return
        except (load.LoadError, OSError) as error:
            if time.monotonic() > deadline:
                raise load.LoadError(f"{error} ({server.fate()})") from None
            time.sleep(PAUSE)


def _choose(done: Collection[Trial]) -> None:
    """After the first rounds: forget their figures, and leave out the slower interpreter of each peer."""
    least = {trial: min(one["seconds"] for one in trial.rounds) for trial in done if trial.rounds}
    for trial, seconds in least.items():
        same = [other for other in least if (other.key, other.kind) == (trial.key, trial.kind)]
        quickest = min(same, key=lambda other: least[other])
        if quickest is not trial and not trial.problem:
            trial.problem = (
                f"{seconds:.2f} s in the first starts, {least[quickest]:.2f} s on {quickest.python}"
            )
    for trial in done:
        trial.rounds.clear()


def _verdict(done: Collection[Trial], what: str) -> Verdict:
    """serverd's time by that of the quickest peer; no goal was set."""
    here = [trial for trial in done if trial.key == what]
    ours = trials.best(here, "serverd", "seconds", least=True)
    theirs = [
        trial
        for kind in ("uvicorn", "granian", "gunicorn")
        if (trial := trials.best(here, kind, "seconds", least=True))
    ]
    aim = f"{what}: time to the first answer (no goal)"
    if not ours or not theirs:
        return Verdict("start-up", aim, None, "not measured", None)
    mine = ours.median("seconds")
    beside = ", ".join(f"{mine / peer.median('seconds'):.2f} × {peer.short}" for peer in theirs)
    return Verdict("start-up", aim, mine, f"{mine:.2f} s: {beside}", None)
