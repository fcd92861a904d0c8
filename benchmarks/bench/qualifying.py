"""Which row of a peer goes into the rounds: all its modes on both interpreters have a short run, the fastest stays.

serverd and the raw limit have that run as well, for everybody is warm then, but nobody of theirs is left out. A row
that fails stays in the table and says why. One thread calls all of this.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from . import load
from .contestants import PEERS
from .goals import STARVING
from .report import Result
from .servers import Running

SECONDS = 1


@dataclass(slots=True)
class Entrant:
    """A row of the table, and the server while it runs."""

    result: Result
    server: Running | None = None


def qualify(
    asks: load.Load, entrants: Sequence[Entrant], cpus: frozenset[int], connections: int
) -> tuple[list[Entrant], list[str]]:
    """Who goes on, in the order of the table; and a line for each kind of peer that tells of the others."""
    for entrant in entrants:
        if entrant.server is not None:
            _try(asks, entrant, entrant.server, cpus, connections)
    stays = [entrant for entrant in entrants if entrant.result.kind not in PEERS]
    lines = []
    for kind in dict.fromkeys(entrant.result.kind for entrant in entrants if entrant.result.kind in PEERS):
        candidates = [entrant for entrant in entrants if entrant.result.kind == kind]
        ran = [entrant for entrant in candidates if entrant.server is not None]
        stays += [entrant for entrant in candidates if entrant.server is None]
        if not ran:
            continue
        best = max(ran, key=_order)
        stays.append(best)
        others = [entrant for entrant in ran if entrant is not best]
        for entrant in others:
            _stop(entrant)
        if others:
            told = "; ".join(_said(entrant.result) for entrant in others)
            lines.append(
                f"{kind}: in the table is {_said(best.result)}; slower in a run of {SECONDS} s: {told}"
            )
    return [entrant for entrant in entrants if entrant in stays], lines


def _try(asks: load.Load, entrant: Entrant, server: Running, cpus: frozenset[int], connections: int) -> None:
    """The short run; a server that fails in it is ended, and its row says why."""
    result = entrant.result
    try:
        result.qualifying = load.run(asks, server.port, server.pid, cpus, connections, SECONDS)
    except (load.LoadError, OSError) as error:
        result.problem = f"{error} ({server.fate()})"
        print(f"{result.name} on {result.python}: {result.problem}", file=sys.stderr, flush=True)
        _stop(entrant)


def _stop(entrant: Entrant) -> None:
    if entrant.server is not None:
        entrant.server.stop()
        entrant.server = None


def _order(entrant: Entrant) -> tuple[bool, float]:
    """Those that answer every client and make no errors before all others, then the faster."""
    run = entrant.result.qualifying
    if run is None:
        return False, 0.0
    return not run.errors and (run.served is None or run.served > STARVING), run.rate


def _said(result: Result) -> str:
    """What is in the brackets of its name, its Python, and its rate in the short run."""
    run, name = result.qualifying, result.name.partition("(")[2].partition(")")[0]
    if run is None:
        return f"{name} on {result.python}"
    errors = f", {run.errors} errors" if run.errors else ""
    if run.served is not None and run.served < STARVING:
        errors += f", serves {run.served:.0%} of the connections at a time"
    return f"{name} on {result.python} ({run.rate:,.0f}/s{errors})"
