"""One scenario, measured: all its servers are started, checked, and loaded in turn, round after round.

An idle server takes no CPU, so they run beside each other; what disturbs the machine for a while disturbs all
of them. A short run of each comes first, in which peers qualify (qualifying.py) and the others get warm. A server that
fails is left out from then on, and its row says why. One thread calls all of this.
"""

import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import goals, load, machine, qualifying, report, servers
from .plan import Plan
from .qualifying import Entrant

NOISY = 0.25  # CPUs that others keep busy, from where on a round is repeated
ROUNDS_FOR_A_REPEAT = 3  # so many allow one: a machine that is always busy does not stop us


def measure(
    name: str, plan: Plan, folder: Path, *, only: Collection[str], rounds: int, seconds: int, connections: int
) -> report.Section:
    """`rounds`, `seconds`, `connections`: 0 for the plan's own. `only`: kinds of contestants; nothing in it: all."""
    cores = machine.choose_cores(plan.cpus)
    rounds, connections = rounds or plan.rounds, connections or plan.connections
    seconds = seconds or plan.seconds
    rows = [row for row in plan.rows if not only or row.kind in only]
    with ExitStack() as stack:
        entrants = [_start(name, plan, row, cores, folder, stack) for row in rows]
        progress(f"{name}: qualifying")
        results = [entrant.result for entrant in entrants]
        entrants, told = qualifying.qualify(plan.load, entrants, cores.load, connections)
        repeats = 0
        for number in range(1, rounds + 1):
            where = f"{name}: round {number} of {rounds}"
            disturbed = _round(plan.load, where, entrants, cores, connections, seconds)
            if disturbed > NOISY and repeats < -(-rounds // ROUNDS_FOR_A_REPEAT):
                repeats += 1
                for entrant in entrants:
                    if entrant.server is not None:
                        entrant.result.runs.pop()
                _round(plan.load, f"{where}, again", entrants, cores, connections, seconds)
    progress("")
    heading = (
        f"{plan.title}; {connections} connections, {rounds} rounds of {seconds} s, interleaved; {cores}."
    )
    raw = [result.as_json() for result in results]  # those that did not qualify as well
    results = [entrant.result for entrant in entrants]
    ours = [result for result in results if result.kind.startswith("serverd")]
    lines, verdicts = goals.judge(name, plan.goals, results)
    if repeats:
        lines.append(f"Rounds that other programs disturbed and that were repeated: {repeats}")
    return report.Section(
        name,
        heading,
        report.table(results, plan.load.unit),
        lines + told,
        raw,
        right=all(result.runs and not result.problem and not result.errors for result in ours),
        verdicts=verdicts,
    )


def _start(
    name: str,
    plan: Plan,
    row: servers.Contestant | report.Result,
    cores: machine.Cores,
    folder: Path,
    stack: ExitStack,
) -> Entrant:
    """Start it and check its answer; a row without a server says why."""
    if isinstance(row, report.Result):
        return Entrant(row)
    progress(f"{name}: starting {row.name} on {row.version}")
    entrant = Entrant(report.Result(row.name, row.kind, row.version, command=row.command))
    try:
        server = stack.enter_context(servers.Running(row, cores.server, folder))
    except servers.ServerError as error:
        entrant.result.problem = str(error)
        return entrant
    try:
        plan.load.check(server.port)
        if plan.note is not None:
            entrant.result.name += f": {plan.note(server.port)}"
    except (load.LoadError, OSError) as error:
        entrant.result.problem = f"{error} ({server.fate()})"
        server.stop()
        return entrant
    entrant.server = server
    return entrant


def _round(
    asks: load.Load,
    where: str,
    entrants: Sequence[Entrant],
    cores: machine.Cores,
    connections: int,
    seconds: int,
) -> float:
    """One run of each; how many CPUs other programs kept busy meanwhile, the mean."""
    others: list[float] = []
    for entrant in entrants:
        result, server = entrant.result, entrant.server
        if server is None:
            continue
        try:
            run = load.run(asks, server.port, server.pid, cores.load, connections, seconds)
        except (load.LoadError, OSError) as error:
            result.problem = f"{error} ({server.fate()})"
            print(f"\n{result.name}: {result.problem}", file=sys.stderr)
            server.stop()
            entrant.server = None
            continue
        if run.errors:
            print(f"\n{result.name}: {run.errors} errors ({server.fate()})", file=sys.stderr)
        result.runs.append(run)
        result.memory = machine.memory_bytes(server.pid)
        server.empty_log()
        others.append(run.others)
        progress(f"{where}: {result.name}: {run.rate:,.0f}/s, {run.cpu_us:.1f} µs")
    return sum(others) / len(others) if others else 0.0


def progress(text: str) -> None:
    """What is going on, for who waits at a terminal; the tables alone go to standard output."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)
