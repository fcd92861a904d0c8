"""The section `footprint`: the memory of one FastAPI application that serves from N CPUs.

serverd has one process with N threads, the peers have N workers; N is the number of CPUs, and 4, the case for which
the goal was set: how much memory so many workers take does not depend on the CPUs there are. What is counted is the
memory of the process tree after the load, when it uses no CPU any more, as if it ran alone (whole_memory.py); PSS, in
which pages are shared with whatever else runs on the same interpreter, stands beside it. One thread calls all of this.
"""

import os
from pathlib import Path

from . import contestants, load, machine, servers, trials
from .contestants import APPS
from .measure import progress
from .memory import settled
from .report import Result, Section, Verdict
from .sections import Settings
from .trials import Trial
from .whole_memory import whole_bytes

BODY = b'{"message":"Hello, World!"}'
APP = "fastapi_json:app"
CONNECTIONS = 64  # enough that no worker is left without one
FOUR = 4
GOAL = 0.4  # of uvicorn with four processes
MIB = 2**20


def measure(settings: Settings) -> Section:
    """The table; in a quick run serverd and uvicorn only, with four workers."""
    every = len(os.sched_getaffinity(0))
    counts = [FOUR] if settings.quick else sorted({every, FOUR})
    done: list[Trial] = []
    for count in counts:
        for trial in _rows(count, settings):
            progress(f"footprint: {trial}")
            _measure(trial, settings.folder)
            done.append(trial)
    progress("")
    heading = (
        f"FastAPI, a JSON endpoint; memory of all processes after a second of load with {CONNECTIONS} "
        "connections; a page counts once, however many of them share it."
    )
    columns = ("workers", "started MiB", "after load MiB", "for each worker MiB", "PSS MiB", "errors")
    table = trials.table(
        columns,
        done,
        lambda trial: (
            trial.key,
            f"{trial.median('started') / MIB:.0f}",
            f"{trial.median('loaded') / MIB:.0f}",
            f"{trial.median('loaded') / MIB / int(trial.key):.0f}",
            f"{trial.median('pss') / MIB:.0f}",
            f"{trial.total('errors')}",
        ),
    )
    lines = [_told(done, count) for count in counts]
    raw = [trial.as_json() for trial in done]
    return Section("footprint", heading, table, lines, raw, trials.right(done), [_verdict(done)])


def _rows(count: int, settings: Settings) -> list[Trial]:
    """serverd with threads, and the peers with workers."""
    name = f"serverd (1 process × {count} threads)"
    rows = [
        *contestants.serverd(APP, APPS, name, {"workers.threads": str(count)}, needs=("fastapi",)),
        *contestants.uvicorn(APP, APPS, count),
    ]
    if not settings.quick:
        rows += contestants.granian(APP, APPS, "asgi", count)
    return trials.wanted(rows, settings.only, str(count))


def _measure(trial: Trial, folder: Path) -> None:
    """Start it, load it, look, end it."""
    if isinstance(trial.row, Result):
        return
    cpus = frozenset(os.sched_getaffinity(0))
    with trials.attempt(trial), servers.Running(trial.row, cpus, folder) as server:
        with trials.attempt(trial, server):
            load.check(server.port, body=BODY)
            settled(server.pid)
            started = whole_bytes(server.pid)
            run = load.run(load.http(BODY), server.port, server.pid, cpus, CONNECTIONS, seconds=1)
            pss = settled(server.pid)
            figures = {"started": started, "loaded": whole_bytes(server.pid), "pss": pss}
            members = len(machine.tree(server.pid))
            trial.rounds.append({**figures, "processes": members, "errors": run.errors})
        server.stop(trials.PATIENCE)


def _of(done: list[Trial], count: int, kind: str) -> Trial | None:
    """The smallest of a kind with so many workers."""
    return trials.best([trial for trial in done if trial.key == str(count)], kind, "loaded", least=True)


def _verdict(done: list[Trial]) -> Verdict:
    """Four threads beside four processes of the smaller uvicorn."""
    aim = f"memory of {FOUR} threads: at most {GOAL} × uvicorn with {FOUR} processes"
    ours, theirs = _of(done, FOUR, "serverd"), _of(done, FOUR, "uvicorn")
    if not ours or not theirs:
        return Verdict("footprint", aim, None, "not measured", None)
    share = ours.median("loaded") / theirs.median("loaded")
    text = f"{share:.2f} × {theirs.short}"
    same = [trial for trial in done if trial.python == ours.python]
    if (beside := _of(same, FOUR, "uvicorn")) and beside is not theirs:
        text += f"; {ours.median('loaded') / beside.median('loaded'):.2f} × on {ours.python}"
    return Verdict("footprint", aim, share, text, share <= GOAL)


def _told(done: list[Trial], count: int) -> str:
    """serverd beside the smallest of each peer."""
    ours = _of(done, count, "serverd")
    shares = [
        f"{ours.median('loaded') / theirs.median('loaded'):.2f} × {theirs.short}"
        for kind in ("uvicorn", "granian")
        if ours and (theirs := _of(done, count, kind))
    ]
    return f"Memory with {count} workers: serverd = {', '.join(shares) or 'not measured'}"
