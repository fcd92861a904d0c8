"""`make bench`: serverd, uvicorn and the raw limit of Python, with the same load on the same cores, in one run.

.venv/bin/python benchmarks/run.py [--rounds 10] [--seconds 2] [--threads 2] [--connections 64] [--only KIND
...]

Prints a Markdown table of medians and what became of the goals; raw figures go to benchmarks/results/ as
JSON. All servers are started at the beginning (an idle one takes no CPU) and measured in turn, round after
round, so that what disturbs the machine for a while disturbs all of them. With four CPUs or more the load has
its own. Takes about two minutes. Exit status: 0 measured, 1 something answered wrongly or failed, 2 cannot
run, 130 stopped with Ctrl-C.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `bench` beside it is the package

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import load, machine, report, servers

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = ("raw", "serverd", "serverd-log", "uvicorn")


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure serverd beside uvicorn and the raw limit of Python."
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="how often each server is measured (%(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=2, help="how long each time (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads, and uvicorn's processes (%(default)s)"
    )
    parser.add_argument("--connections", type=int, default=64, help="of wrk, all keep-alive (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="measure only these")
    return parser.parse_args(argv)


def contestants(options: argparse.Namespace) -> list[servers.Contestant | report.Result]:
    """What is measured, in the order of the table; a Result stands for what cannot be, with the reason."""
    threads = options.threads
    wanted: list[servers.Contestant | report.Result] = []
    if "raw" in options.only:
        wanted.append(servers.raw(threads))
    if "serverd" in options.only:
        wanted.append(servers.serverd(threads, access_log=False))
    if "serverd-log" in options.only:
        wanted.append(servers.serverd(threads, access_log=True))
    if "uvicorn" in options.only:
        gil = servers.gil_interpreter()
        for interpreter in (sys.executable, gil):
            name = "uvicorn, free-threaded" if interpreter is sys.executable else "uvicorn, with the GIL"
            if interpreter is None:
                wanted.append(report.Result(name, "uvicorn", "-", "no ordinary Python 3.11 or later found"))
                continue
            try:
                wanted.append(servers.uvicorn(interpreter, threads))
            except servers.ServerError as error:
                version = servers.python_version(interpreter)
                wanted.append(report.Result(name, "uvicorn", version, str(error)))
    return wanted


def start(
    wanted: list[servers.Contestant | report.Result], cores: machine.Cores, folder: Path, stack: ExitStack
) -> tuple[list[report.Result], dict[int, servers.Running]]:
    """Start all of them; the results to be filled, and what runs by the index of its result."""
    results: list[report.Result] = []
    running: dict[int, servers.Running] = {}
    for contestant in wanted:
        if isinstance(contestant, report.Result):
            results.append(contestant)
            continue
        result = report.Result(contestant.name, contestant.kind, contestant.version)
        results.append(result)
        try:
            server = stack.enter_context(servers.Running(contestant, cores.server, folder))
            load.check(server.port)
        except (servers.ServerError, load.LoadError, OSError) as error:
            result.problem = str(error)
            continue
        running[len(results) - 1] = server
    return results, running


def measure(
    options: argparse.Namespace,
    cores: machine.Cores,
    results: list[report.Result],
    running: dict[int, servers.Running],
) -> None:
    """A short round that warms up and is not counted, then the rounds; a server that fails is left out from then on."""
    for number in range(options.rounds + 1):
        for index in list(running):
            server, result = running[index], results[index]
            seconds = options.seconds if number else 1
            try:
                run = load.run(
                    server.port, server.pid, cores.load, options.connections, min(2, options.threads), seconds
                )
            except (load.LoadError, OSError) as error:
                result.problem = f"{error} ({server.fate()})"
                print(f"\n{result.name}: {result.problem}", file=sys.stderr)
                del running[index]
                continue
            if run.errors:
                print(f"\n{result.name}: {run.errors} errors ({server.fate()})", file=sys.stderr)
            if number:
                result.runs.append(run)
                result.memory = machine.memory_bytes(server.pid)
            server.empty_log()
            label = f"round {number} of {options.rounds}" if number else "warming up"
            progress(f"{label}: {result.name}: {run.rate:,.0f}/s, {run.cpu_us:.1f} µs")


def progress(text: str) -> None:
    """What is going on, for who waits at a terminal; the table alone goes to standard output."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text[:110]}", end="", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Everything; the exit status."""
    options = arguments(argv)
    if shutil.which("wrk") is None:
        print("bench: wrk, the load tool, is missing. Install it: apt-get install wrk", file=sys.stderr)
        return 2
    cores = machine.choose_cores(options.threads)
    about = machine.describe(servers.ROOT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serverd-bench-")))
        results, running = start(contestants(options), cores, folder, stack)
        measure(options, cores, results, running)
    progress("")
    settings = {key: value for key, value in vars(options).items() if key != "only"}
    path = report.save(RESULTS, {**about, "cores": str(cores), "settings": settings}, results)
    print(f"\n{about['cpu']}, {about['cpus']} CPUs ({cores}), Linux {about['kernel']}, {about['wrk']}:")
    print(
        f'"Hello, World!" over {options.connections} keep-alive connections, median of {options.rounds} rounds'
    )
    print(f"of {options.seconds:g} s, interleaved, serverd at {about['commit']}\n")
    print(report.table(results))
    print()
    print("\n".join(f"- {line}" for line in report.goals(results)))
    print(f"\nRaw results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 1 if any(result.errors or not result.runs for result in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nbench: stopped", file=sys.stderr)
        sys.exit(130)
