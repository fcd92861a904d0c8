"""One scenario, measured: all its servers are started, checked, and loaded in turn, round after round.

An idle server takes no CPU, so they run beside each other; what disturbs the machine for a while disturbs all
of them. A server that fails is left out from then on, and its row says why. One thread calls all of this.
"""

import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from . import goals, load, machine, report, servers
from .scenarios import Plan


def measure(
    name: str, plan: Plan, folder: Path, *, only: Collection[str], rounds: int, seconds: int, connections: int
) -> report.Section:
    """`rounds` and `connections` 0: as the plan says. `only` are kinds of contestants; nothing in it: all."""
    cores = machine.choose_cores(plan.cpus)
    rounds, connections = rounds or plan.rounds, connections or plan.connections
    rows = [row for row in plan.rows if not only or row.kind in only]
    with ExitStack() as stack:
        results, running = _start(name, plan.load, rows, cores, folder, stack)
        for number in range(rounds + 1):
            where = f"{name}: round {number} of {rounds}" if number else f"{name}: warming up"
            for index in list(running):
                if not _one(
                    plan.load, where, results[index], running[index], cores, connections, seconds, number
                ):
                    del running[index]
    progress("")
    heading = (
        f"{plan.title}; {connections} connections, {rounds} rounds of {seconds} s, interleaved; {cores}."
    )
    ours = [result for result in results if result.kind.startswith("serverd")]
    return report.Section(
        name,
        heading,
        report.table(results, plan.load.unit),
        goals.judge(plan.goals, results),
        [result.as_json() for result in results],
        right=all(result.runs and not result.problem and not result.errors for result in ours),
    )


def _start(
    name: str,
    asks: load.Load,
    rows: Collection[servers.Contestant | report.Result],
    cores: machine.Cores,
    folder: Path,
    stack: ExitStack,
) -> tuple[list[report.Result], dict[int, servers.Running]]:
    """Start all of them; the results to be filled, and what runs by the index of its result."""
    results: list[report.Result] = []
    running: dict[int, servers.Running] = {}
    for row in rows:
        if isinstance(row, report.Result):
            results.append(row)
            continue
        progress(f"{name}: starting {row.name} on {row.version}")
        result = report.Result(row.name, row.kind, row.version)
        results.append(result)
        try:
            server = stack.enter_context(servers.Running(row, cores.server, folder))
            asks.check(server.port)
        except (servers.ServerError, load.LoadError, OSError) as error:
            result.problem = str(error)
            continue
        running[len(results) - 1] = server
    return results, running


def _one(
    asks: load.Load,
    where: str,
    result: report.Result,
    server: servers.Running,
    cores: machine.Cores,
    connections: int,
    seconds: int,
    number: int,
) -> bool:
    """One run; False when there is nothing more to measure. The round 0 warms up, is short, and is not counted."""
    try:
        run = load.run(asks, server.port, server.pid, cores.load, connections, seconds if number else 1)
    except (load.LoadError, OSError) as error:
        result.problem = f"{error} ({server.fate()})"
        print(f"\n{result.name}: {result.problem}", file=sys.stderr)
        return False
    if run.errors:
        print(f"\n{result.name}: {run.errors} errors ({server.fate()})", file=sys.stderr)
    if number:
        result.runs.append(run)
        result.memory = machine.memory_bytes(server.pid)
    server.empty_log()
    progress(f"{where}: {result.name}: {run.rate:,.0f}/s, {run.cpu_us:.1f} µs")
    return True


def progress(text: str) -> None:
    """What is going on, for who waits at a terminal; the tables alone go to standard output."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)
