"""The section `cpu-bound`: a page that takes two milliseconds of Python, from N threads and from N processes.

What it shows is whether threads of one process without a GIL do as much as processes do: serverd with 1 process × N
threads beside N processes × 1 thread, on the same N CPUs, for N = 1, 2, 4 and all CPUs as far as the machine has
them; and for all CPUs the peers with N workers. Where N is all CPUs the load shares them: a request takes it about
a hundredth of what it takes the server. The servers of one N are started together and measured in turn. One
thread calls all of this.
"""

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

from . import contestants, load, trials
from .contestants import APPS
from .measure import progress
from .report import Section, Verdict
from .sections import Settings
from .trials import Trial

APP = "cpu_bound:app"
ROUNDS, SECONDS = 5, 1
GOAL = 0.9  # of what single-threaded processes do
NEEDS = ("fastapi", "jinja2")


def measure(settings: Settings) -> Section:
    """The table; nothing in a quick run, which has not the time."""
    if settings.quick:
        return Section("cpu-bound", "Not measured in a quick run.", "", (), (), right=True)
    every = sorted(os.sched_getaffinity(0))
    page = _page()
    done: list[Trial] = []
    for count in sorted({n for n in (1, 2, 4, len(every)) if n <= len(every)}):
        cpus = frozenset(every[:count])
        rows = _rows(count, settings.only, peers=count == len(every))
        _measure(rows, page, cpus, frozenset(every) - cpus or cpus, settings.folder)
        done += rows
    progress("")
    return _section(done, len(every))


def _page() -> bytes:
    """What must be answered, made here by the same function."""
    try:
        from .apps.cpu_bound import page  # noqa: PLC0415 - it needs packages that only a bench has
    except ImportError as error:
        raise load.LoadError(f"{error.name} is not installed beside serverd (make bench does it)") from None
    return page().encode()


def _rows(count: int, only: Collection[str], *, peers: bool) -> list[Trial]:
    """serverd from so many threads, and from so many processes; and the others."""
    threads = {"workers.threads": str(count)}
    name = f"serverd (1 process × {count} thread{'s' if count > 1 else ''})"
    rows = trials.wanted(contestants.serverd(APP, APPS, name, threads, needs=NEEDS), only, f"{count} threads")
    if count > 1:
        processes = {"workers.processes": str(count), "workers.threads": "1"}
        name = f"serverd ({count} processes × 1 thread)"
        rows += trials.wanted(
            contestants.serverd(APP, APPS, name, processes, needs=NEEDS), only, f"{count} processes"
        )
    if peers:
        theirs = (*contestants.uvicorn(APP, APPS, count), *contestants.granian(APP, APPS, "asgi", count))
        rows += trials.wanted(theirs, only, f"{count} workers")
    return rows


def _measure(
    rows: list[Trial], page: bytes, cpus: frozenset[int], load_cpus: frozenset[int], folder: Path
) -> None:
    """Fill the rounds of all of them, in turn; the first round warms up and is not counted."""
    asked = load.http(page)
    connections = 4 * len(cpus)
    with trials.running(
        rows, {row.key: cpus for row in rows}, folder, partial(load.check, body=page)
    ) as found:
        for number in range(ROUNDS + 1):
            for trial, server in found.items():
                if trial.problem:
                    continue
                progress(f"cpu-bound: {len(cpus)} CPUs: round {number} of {ROUNDS}: {trial}")
                with trials.attempt(trial, server):
                    run = load.run(asked, server.port, server.pid, load_cpus, connections, SECONDS)
                    if number:
                        trial.rounds.append({**run.as_json(), "cpus": len(cpus)})


def _section(done: list[Trial], every: int) -> Section:
    """The table and what became of the goal."""
    heading = (
        "FastAPI, a page that takes about 2 ms of Python (JSON, Jinja2); 4 connections for each CPU, "
        f"{ROUNDS} rounds of {SECONDS} s, interleaved; N workers on N CPUs, the load on the others; "
        f"with N = {every} it shares them."
    )
    table = trials.table(
        ("CPUs", "pages/s", "CPU ms/page", "p50 ms", "p99 ms", "errors"),
        done,
        lambda trial: (
            f"{trial.median('cpus'):.0f}",
            f"{trial.median('rate'):,.0f} ± {trial.spread('rate'):.0f} %",
            f"{trial.median('cpu_us') / 1000:.2f}",
            f"{trial.median('p50_us') / 1000:.1f}",
            f"{trial.median('p99_us') / 1000:.1f}",
            f"{trial.total('errors')}",
        ),
    )
    verdicts = [_verdict(done, count) for count in (every,)]
    lines = [f"{verdict.aim}: {verdict.text}" for verdict in verdicts]
    lines += [*_told(done, every), *trials.left_out(done), *trials.disturbed(done)]
    raw = [trial.as_json() for trial in done]
    return Section("cpu-bound", heading, table, lines, raw, trials.right(done), verdicts)


def _of(done: list[Trial], key: str) -> Trial | None:
    """The serverd with that key, if it was measured."""
    return next(
        (trial for trial in done if trial.kind == "serverd" and trial.key == key and trial.rounds), None
    )


def _verdict(done: list[Trial], count: int) -> Verdict:
    """Threads beside processes."""
    aim = f"{count} threads in a process: at least {GOAL} × {count} processes with a thread each"
    threads, processes = _of(done, f"{count} threads"), _of(done, f"{count} processes")
    if count == 1:
        return Verdict("cpu-bound", aim, None, "not measured: there is one CPU", None)
    if not threads or not processes:
        return Verdict("cpu-bound", aim, None, "not measured", None)
    rate, cpu = trials.paired(threads, processes, "rate"), trials.paired(threads, processes, "cpu_us")
    return Verdict("cpu-bound", aim, rate, f"{rate:.2f} × (CPU for each page: {cpu:.2f} ×)", rate >= GOAL)


def _told(done: list[Trial], every: int) -> list[str]:
    """What has no goal: how threads scale, and the peers."""
    lines: list[str] = []
    one = _of(done, "1 threads")
    for count in sorted({n for n in (2, 4, every) if 1 < n <= every}):
        threads, processes = _of(done, f"{count} threads"), _of(done, f"{count} processes")
        if one and threads and processes:
            lines.append(
                f"{count} CPUs beside 1: {threads.median('rate') / one.median('rate'):.2f} × with threads, "
                f"{processes.median('rate') / one.median('rate'):.2f} × with processes"
            )
    if ours := _of(done, f"{every} threads"):
        for kind in ("uvicorn", "granian"):
            if theirs := trials.best(done, kind, "rate"):
                lines.append(
                    f"serverd with {every} threads: {trials.paired(ours, theirs, 'rate'):.2f} × {theirs.short}"
                )
    return lines
