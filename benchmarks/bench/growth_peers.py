"""serverd and two peers for the sections `connections` and `latency`: how they are started, and which mode of a peer.

uvicorn and granian are tried on free-threaded Python and on the newest one with a GIL, in each mode that may be its
fastest; the row that answers most in short runs goes on, and a line tells of the others. That is found out once in a
run of everything. One thread calls all of this.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from . import contestants, machine, rate_load
from .contestants import HELLO
from .load import LoadError
from .measure import progress
from .report import Result
from .servers import Contestant, Running
from .trials import Trial, attempt, best, running, wanted

PEERS = ("uvicorn", "granian")
CONNECTIONS = 64
ROUNDS, SECONDS = 3, 0.4  # of the qualifying
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
    """The row that answers most; or one that says why there is none."""
    with tempfile.TemporaryDirectory(prefix="serverd-bench-") as name:
        folder = Path(name)
        asked = rate_load.exchange(folder, "hello", rate_load.get())
        cpus = {"": cores().server}
        with running(trials, cpus, folder, partial(rate_load.check, asked)) as servers:
            for number in range(ROUNDS + 1):  # the first warms up
                for trial, server in servers.items():
                    if trial.problem:
                        continue
                    progress(f"qualifying: {trial}")
                    with attempt(trial, server):
                        figures = rate_load.run(asked, server, cores().load, CONNECTIONS, SECONDS)
                        if figures["errors"]:
                            raise LoadError(f"{figures['errors']} errors")
                        trial.rounds += [figures] if number else []
    winner = best([trial for trial in trials if not trial.problem], kind, "rate")
    if winner is None:
        why = "; ".join(f"{trial}: {trial.problem}" for trial in trials)
        return Result(kind, kind, "", why or "no environment for it"), []
    told = "; ".join(
        f"{trial} ({trial.problem or f'{trial.median("rate"):,.0f}/s'})"
        for trial in trials
        if trial is not winner
    )
    line = (
        f"{winner} qualified ({winner.median('rate'):,.0f}/s, the median of {ROUNDS} × {SECONDS} s in turn)"
    )
    return winner.row, [f"{line}. The others: {told}" if told else line]
