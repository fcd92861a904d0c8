"""serverd and two peers for the sections `connections` and `latency`: how they are started, and which mode of a peer.

uvicorn and granian are tried on free-threaded Python and on the newest one with a GIL, in each mode that may be its
fastest; the row that answers most in a second goes on, and a line tells of the others. That is found out once in a
run. One thread calls all of this.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from . import contestants, machine, rate_load
from .contestants import HELLO
from .measure import progress
from .report import Result
from .servers import Contestant, Running
from .trials import Trial, attempt, best, running, wanted

PEERS = ("uvicorn", "granian")
CONNECTIONS = 64
# The load is one thread (so that times are its own and not those of its locks), and must not be what is measured.
MOST_CPUS = 2


def cores() -> machine.Cores:
    """Half of the CPUs for the servers, and no more than one thread can load."""
    return machine.choose_cores(min(MOST_CPUS, machine.half_of_the_cpus()))


@contextmanager
def started(
    only: frozenset[str], folder: Path
) -> Iterator[tuple[list[Trial], dict[Trial, Running], list[str]]]:
    """A trial for serverd and one for each peer, all of them running; and what the qualifying has said."""
    rows, lines = _chosen(only)
    trials = wanted(rows, ())
    asked = rate_load.exchange(folder, "check", rate_load.get())
    cpus = {"": cores().server}
    with running(trials, cpus, folder, partial(rate_load.check, asked)) as servers:
        yield trials, servers, list(lines)


@cache
def _chosen(only: frozenset[str]) -> tuple[list[Contestant | Result], list[str]]:
    rows: list[Contestant | Result] = []
    lines: list[str] = []
    count = len(cores().server)
    if not only or "serverd" in only:
        name = f"serverd (1 process × {count} {'thread' if count == 1 else 'threads'})"
        rows += contestants.serverd("hello:app", HELLO, name, {"workers.threads": str(count)})
    for kind in PEERS:
        if only and kind not in only:
            continue
        if kind == "uvicorn":
            candidates = contestants.uvicorn("hello:app", HELLO, count, every_mode=True)
        else:
            candidates = contestants.granian("hello:app", HELLO, "asgi", count, every_mode=True)
        row, said = _qualify(kind, wanted(candidates, ()))
        rows.append(row)
        lines += said
    return rows, lines


def _qualify(kind: str, trials: list[Trial]) -> tuple[Contestant | Result, list[str]]:
    """The row that answers most in a second; or one that says why there is none."""
    with tempfile.TemporaryDirectory(prefix="serverd-bench-") as name:
        folder = Path(name)
        asked = rate_load.exchange(folder, "hello", rate_load.get())
        cpus = {"": cores().server}
        with running(trials, cpus, folder, partial(rate_load.check, asked)) as servers:
            for trial, server in servers.items():
                progress(f"qualifying: {trial}")
                with attempt(trial, server):
                    rate_load.run(asked, server, cores().load, CONNECTIONS, 0.3)
                    figures = rate_load.run(asked, server, cores().load, CONNECTIONS, 1.0)
                    trial.rounds += [] if figures["errors"] else [figures]
    winner = best(trials, kind, "rate")
    if winner is None:
        why = "; ".join(f"{trial}: {trial.problem or 'errors'}" for trial in trials)
        return Result(kind, kind, "", why or "no environment for it"), []
    told = "; ".join(
        f"{trial} ({trial.median('rate'):,.0f}/s)"
        if trial.rounds
        else f"{trial} ({trial.problem or 'errors'})"
        for trial in trials
        if trial is not winner
    )
    line = f"{winner} ({winner.median('rate'):,.0f}/s) qualified. The others in a second: {told or 'there are none'}"
    return winner.row, [line]
