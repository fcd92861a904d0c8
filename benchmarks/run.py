"""`make bench` and `make bench-full`: serverd beside other servers and the raw limit of Python, on one machine.

.venv/bin/python benchmarks/run.py [--quick] [--scenario NAME ...] [--only KIND ...] [--rounds N] [--seconds N]
[--threads N] [--connections N] [--held 5000]

Prints a Markdown table for each scenario and section, and at the end one of all goals; what is going on goes to
standard error, raw figures to benchmarks/results/ as JSON. All servers of a scenario are started at its beginning (an
idle one takes no CPU) and measured in turn, round after round, on half of the CPUs; the load has the others. A
scenario or a server that cannot run here says why in its place. `--quick` is two minutes: some of the scenarios and
servers, unless others are named. Exit status: 0 serverd was measured in all of them, 1 it answered wrongly, failed or
could not run in one, 2 no load tool, 130 stopped with Ctrl-C.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `bench` beside it is the package

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from bench import load, machine, measure, peers, plots, report, scenarios, sections
from bench.contestants import KINDS
from bench.plan import Context

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = (*scenarios.SCENARIOS, *sections.SECTIONS)
QUICK_NAMES = ("hello", "browser", "fastapi", "flask")
QUICK_KINDS = ("raw", "serverd", "serverd-log", "uvicorn", "granian", "gunicorn")
QUICK_ROUNDS = 3


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line. What is named is measured in full: a run is `quick` when no scenario was named."""
    parser = argparse.ArgumentParser(
        description="Measure serverd beside other servers and the raw limit of Python."
    )
    parser.add_argument("--quick", action="store_true", help="two minutes in all: what is slow is left out")
    parser.add_argument("--scenario", nargs="+", choices=NAMES, metavar="NAME",
                        help=f"measure only these of {', '.join(NAMES)}")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND",
                        help=f"measure only these servers of {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=0, help="how often each is measured (the scenario's own)"
    )
    parser.add_argument("--seconds", type=int, default=0, help="how long each time (the scenario's own)")
    parser.add_argument("--threads", type=int, default=machine.half_of_the_cpus(),
                        help="CPUs of a server, where it may use several (half of them: %(default)s)")  # fmt: skip
    parser.add_argument("--connections", type=int, default=0, help="all stay open (the scenario's own)")
    parser.add_argument(
        "--held", type=int, default=5000, help="connections in the section memory (%(default)s)"
    )
    options = parser.parse_args(argv)
    options.quick = options.quick and not options.scenario
    if options.quick:
        options.only = options.only or QUICK_KINDS
        options.rounds = options.rounds or QUICK_ROUNDS
    options.scenario = options.scenario or (QUICK_NAMES if options.quick else NAMES)
    options.only = options.only or ()
    return options


def run(name: str, options: argparse.Namespace, folder: Path) -> report.Section:
    """One scenario or section; one that says why when it cannot run here."""
    try:
        return _measured(name, options, folder)
    except load.LoadError as error:
        return report.Section(name, f"Not measured: {error}", "", (), (), right=False)
    except Exception as error:  # noqa: BLE001 - a mistake in one of them does not cost the results of the others
        traceback.print_exc()
        return report.Section(name, f"Not measured: {error!r} (see above)", "", (), (), right=False)


def _measured(name: str, options: argparse.Namespace, folder: Path) -> report.Section:
    if name in sections.SECTIONS:
        settings = sections.Settings(folder, options.only, options.quick, options.held)
        return sections.SECTIONS[name](settings)
    plan = scenarios.SCENARIOS[name](Context(options.threads, folder, options.only, options.quick))
    return measure.measure(
        name,
        plan,
        folder,
        only=options.only,
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
    )


def main(argv: list[str]) -> int:
    """Everything; the exit status."""
    options = arguments(argv)
    if shutil.which("wrk") is None:
        print("bench: wrk, the load tool, is missing. Install it: apt-get install wrk", file=sys.stderr)
        return 2
    about = machine.describe(peers.ROOT)
    print(
        f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}, {about['wrk']}, serverd at {about['commit']}\n"
    )
    measured: list[report.Section] = []
    begin = time.monotonic()
    stopped = False
    try:
        for section in _each(options, begin):
            measured.append(section)
            print(section.text(), flush=True)
    except KeyboardInterrupt:
        print("\nbench: stopped; what was measured by now follows", file=sys.stderr)
        stopped = True
    if goals := report.summary(measured):
        print(f"## Goals\n\n{goals}\n")
    about |= {"seconds": round(time.monotonic() - begin)}
    versions = {"serverd": peers.releases(sys.executable), **peers.used_releases()}
    path = report.save(RESULTS, {**about, "settings": vars(options), "versions": versions}, measured)
    print(f"Raw results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if pictures := plots.after_a_run(path):
        print(pictures)
    if stopped:
        return 130
    return 0 if all(section.right for section in measured) else 1


def _each(options: argparse.Namespace, begin: float) -> Iterator[report.Section]:
    """One after the other, and where we are on standard error."""
    names = [name for name in NAMES if name in options.scenario]
    for number, name in enumerate(names, 1):
        passed = time.strftime("%M:%S", time.gmtime(time.monotonic() - begin))
        measure.progress("")
        print(f"bench: {passed} {name} ({number} of {len(names)})", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="serverd-bench-") as folder:
            yield run(name, options, Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
