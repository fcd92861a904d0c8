"""`make bench`: serverd beside other servers and the raw limit of Python, the same load on the same cores in one run.

.venv/bin/python benchmarks/run.py [--scenario NAME ...] [--only KIND ...] [--rounds N] [--seconds 2]
[--threads 2] [--connections N] [--held 5000]

Prints a Markdown table of medians for each scenario and what became of its goals; raw figures go to
benchmarks/results/ as JSON. All servers of a scenario are started at its beginning (an idle one takes no CPU)
and measured in turn, round after round. The load has CPUs of its own where there are twice as many as a
scenario's servers may use. A scenario or a server that cannot run here says why in its place. All of it
takes about seven minutes. Exit status: 0 serverd was measured in all of them, 1 it answered wrongly, failed or
could not run in one, 2 no load tool, 130 stopped with Ctrl-C.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `bench` beside it is the package

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench import load, machine, measure, peers, report, scenarios, sections

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = (*scenarios.SCENARIOS, *sections.SECTIONS)
KINDS = ("raw", "serverd", "serverd-log", "uvicorn", "granian", "gunicorn")


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure serverd beside other servers and the raw limit of Python."
    )
    parser.add_argument("--scenario", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
                        help=f"measure only these of {', '.join(NAMES)}")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=KINDS, default=(), help="measure only these servers")
    parser.add_argument(
        "--rounds", type=int, default=0, help="how often each is measured (the scenario's own)"
    )
    parser.add_argument("--seconds", type=int, default=2, help="how long each time (%(default)s)")
    parser.add_argument("--threads", type=int, default=2,
                        help="threads or processes, where a server may use several CPUs (%(default)s)")  # fmt: skip
    parser.add_argument("--connections", type=int, default=0, help="all stay open (the scenario's own)")
    parser.add_argument(
        "--held", type=int, default=5000, help="connections in the scenario memory (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="two minutes in all: what is slow is left out")
    return parser.parse_args(argv)


def run(name: str, options: argparse.Namespace, folder: Path) -> report.Section:
    """One scenario; a section that says why when it cannot run here."""
    try:
        if name in sections.SECTIONS:
            settings = sections.Settings(folder, options.only, options.quick, options.held)
            return sections.SECTIONS[name](settings)
        plan = scenarios.SCENARIOS[name](scenarios.Context(options.threads, folder))
    except load.LoadError as error:
        return report.Section(name, f"Not measured: {error}", "", (), (), right=False)
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
    for name in (name for name in NAMES if name in options.scenario):
        with tempfile.TemporaryDirectory(prefix="serverd-bench-") as folder:
            measured.append(run(name, options, Path(folder)))
        print(measured[-1].text(), flush=True)
    if goals := report.summary(measured):
        print(f"## Goals\n\n{goals}\n")
    path = report.save(RESULTS, {**about, "settings": vars(options)}, measured)
    print(f"Raw results: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 0 if all(section.right for section in measured) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nbench: stopped", file=sys.stderr)
        sys.exit(130)
