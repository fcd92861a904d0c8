"""`make hostile`: what thousands of slow and hostile clients take from the well-behaved ones, and from memory.

.venv/bin/python benchmarks/hostile.py [--kinds heads idle ...] [--rounds 3] [--seconds 5] [--rate 200] [--mode sync]
[--threads 2] [--share 1.0] [--realtime]

A real daemon for each kind. In each round the well-behaved clients are measured twice: alone, and with the crowd there.
What is compared is the p99 of both within a round, and the median over the rounds is shown; so what disturbs the
machine for longer than a few seconds disturbs both. About a minute for each kind. Exit status: 0; 1 when something
failed: an error of a well-behaved client, a traceback in the log, a connection or a descriptor that stays open.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `hostile` beside it is the package

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from hostile.daemon import Daemon, Gone, raise_descriptors
from hostile.kinds import Kind, kinds

HERE = Path(__file__).parent
# Every so many requests of well-behaved clients come on a new connection.
FRESH = 5
GOAL_RATIO = 1.5
GOAL_BYTES = 16 * 1024


@dataclass
class Phase:
    """The well-behaved clients over some seconds, in milliseconds."""

    p50: float
    p99: float
    longest: float
    fresh_p99: float
    number: int
    cpu: float  # of the child, in CPUs
    client_cpu: float
    errors: dict[str, int]


@dataclass
class Outcome:
    """One kind, over all rounds."""

    kind: Kind
    count: int
    alone: list[Phase] = field(default_factory=list)
    disturbed: list[Phase] = field(default_factory=list)
    held: int = 0  # connections that were open when memory was looked at
    each: tuple[int, int] = (0, 0)  # RSS and PSS of one, in bytes
    busy: int = 0  # threads held
    crowd_cpu: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Disturbed p99 by undisturbed p99: the median of the rounds."""
        pairs = zip(self.alone, self.disturbed, strict=True)
        return statistics.median(after.p99 / before.p99 for before, after in pairs)


class Peer:
    """A process of ours that is spoken to by lines."""

    def __init__(self, cpus: frozenset[int], module: str, *args: object) -> None:
        with machine.pinned(cpus):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, args)],
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Gone(f"{self._process.args!r} has ended")
        return line.strip()

    def end(self) -> str:
        """The end of its input, and its last line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        rest = self._process.stdout.read().strip()
        self._process.wait(30)
        return rest

    def kill(self) -> None:
        """Whatever has happened."""
        self._process.kill()
        self._process.communicate()


def measure(daemon: Daemon, good: Peer, seconds: float) -> Phase:
    """One phase."""
    cpu, began = daemon.cpu(), time.monotonic()
    good.say(str(seconds))
    said = json.loads(good.hear())
    used = (daemon.cpu() - cpu) / (time.monotonic() - began)
    times = sorted(said["kept"] + said["fresh"])
    if not times:
        raise Gone(f"no request was answered: {said['errors']}")
    return Phase(
        1000 * at(times, 0.5),
        1000 * at(times, 0.99),
        1000 * times[-1],
        1000 * at(said["fresh"], 0.99),
        len(times),
        used,
        said["cpu"],
        said["errors"],
    )


def at(ordered: list[float], part: float) -> float:
    """The value below which this part of them is."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def attack(kind: Kind, options: argparse.Namespace, folder: Path, cores: machine.Cores) -> Outcome:
    """All rounds of one kind, against one daemon."""
    count = max(1, int(kind.count * options.share)) if kind.count else 0
    outcome = Outcome(kind, count)
    daemon = Daemon(
        folder,
        cores.server,
        mode=options.mode,
        threads=options.threads,
        connections=options.connections,
        tls=kind.tls,
    )
    good = crowd = None
    try:
        good = Peer(cores.load, "hostile.good", daemon.port, options.rate, FRESH, int(kind.tls))
        measure(daemon, good, 1.0)  # warm
        descriptors, before = daemon.descriptors(), daemon.memory()
        for number in range(options.rounds):
            outcome.alone.append(measure(daemon, good, options.seconds))
            crowd = Peer(cores.load, "hostile.crowd", daemon.port, kind.name, count)
            crowd.hear()
            time.sleep(kind.settle)
            outcome.disturbed.append(measure(daemon, good, options.seconds))
            if not number:
                outcome.held = max(0, daemon.descriptors() - descriptors)
                after = daemon.memory()
                if count:
                    outcome.each = ((after[0] - before[0]) // count, (after[1] - before[1]) // count)
            outcome.busy = max(outcome.busy, daemon.busy_threads())
            said = json.loads(crowd.end())
            outcome.crowd_cpu = max(outcome.crowd_cpu, said["cpu"])
            for name, many in said["seen"].items():
                outcome.seen[name] = outcome.seen.get(name, 0) + many
            settle(daemon, descriptors, outcome)
        outcome.problems += [f"in the log: {line}" for line in daemon.problems()]
        for phase in outcome.alone + outcome.disturbed:
            outcome.problems += [f"{many} × {what}" for what, many in phase.errors.items()]
    finally:
        for peer in (good, crowd):
            if peer is not None:
                peer.kill()
        if (status := daemon.stop()) != 0:
            outcome.problems.append(f"the daemon's exit status was {status}")
    return outcome


def settle(daemon: Daemon, descriptors: int, outcome: Outcome) -> None:
    """Wait until the crowd's connections are gone from the child, and their descriptors."""
    until = time.monotonic() + 40.0
    while (left := daemon.descriptors() - descriptors) > 8:
        if time.monotonic() > until:
            outcome.problems.append(f"{left} descriptors are still open 40 s after the crowd has left")
            return
        time.sleep(0.1)


def table(outcomes: list[Outcome]) -> str:
    """What was measured, for people."""
    lines = [
        "| kind | number | p50 ms | p99 ms | max ms | new: p99 | ratio | KiB: RSS, PSS | held | CPU | crowd's CPU |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for outcome in outcomes:
        pairs = [
            f"{middle(outcome.alone, name):.2f} → {middle(outcome.disturbed, name):.2f}"
            for name in ("p50", "p99", "longest", "fresh_p99")
        ]
        memory = f"{outcome.each[0] / 1024:.1f}, {outcome.each[1] / 1024:.1f}" if outcome.count else ""
        cpu = f"{middle(outcome.alone, 'cpu'):.0%} → {middle(outcome.disturbed, 'cpu'):.0%}"
        number = f"{outcome.count:,}" if outcome.count else f"{outcome.kind.rate:g}/s"
        lines.append(
            f"| {outcome.kind.name}: {outcome.kind.what} | {number} | {' | '.join(pairs)} | {outcome.ratio:.2f} | "
            f"{memory} | {outcome.busy} | {cpu} | {outcome.crowd_cpu:.0%} |"
        )
    return "\n".join(lines)


def middle(phases: list[Phase], name: str) -> float:
    """The median of one figure."""
    return float(statistics.median(getattr(phase, name) for phase in phases))


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    names = list(kinds())
    parser = argparse.ArgumentParser(description="Measure well-behaved clients beside slow and hostile ones.")
    parser.add_argument("--kinds", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3, help="for each kind (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase (%(default)s)")
    parser.add_argument(
        "--rate", type=float, default=200.0, help="well-behaved requests a second (%(default)s)"
    )
    parser.add_argument("--mode", choices=("sync", "async"), default="sync")
    parser.add_argument("--threads", type=int, default=2, help="of the child (%(default)s)")
    parser.add_argument("--connections", type=int, default=15_000, help="limits.connections (%(default)s)")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="the daemon and all clients before other programs, where there are some (SCHED_RR, needs root)",
    )
    parser.add_argument("--share", type=float, default=1.0, help="of each crowd's number (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Measure, say what was found; the exit status."""
    options = arguments(argv)
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    cores = machine.choose_cores(1)
    descriptors = raise_descriptors()
    print(
        f"mode {options.mode}, {options.threads} threads, {cores}, at most {descriptors} descriptors in a process, "
        f"{options.rate:g} well-behaved requests a second, {options.rounds} rounds of {options.seconds:g} s\n"
    )
    outcomes: list[Outcome] = []
    for name in options.kinds:
        print(f"\r{name:<20}", end="", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = attack(kinds()[name], options, Path(folder), cores)
            except (Gone, OSError) as error:
                print(f"{name}: not measured: {error}")
                continue
        outcomes.append(outcome)
        print(table([outcome]).splitlines()[-1], flush=True)
        print(f"    {outcome.held} descriptors at the end of the first phase; the crowd saw {outcome.seen}")
        for problem in outcome.problems:
            print(f"    {problem}", flush=True)
    print(f"\n{table(outcomes)}")
    save(outcomes, options)
    return 1 if len(outcomes) < len(options.kinds) or any(outcome.problems for outcome in outcomes) else 0


def save(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    """Every figure, beside those of ``run.py``."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    raw: dict[str, Any] = {"options": vars(options), "machine": machine.describe(HERE.parent)}
    raw["kinds"] = [
        {
            "name": outcome.kind.name,
            "count": outcome.count,
            "alone": [vars(phase) for phase in outcome.alone],
            "disturbed": [vars(phase) for phase in outcome.disturbed],
            "ratio": outcome.ratio,
            "each": outcome.each,
            "busy": outcome.busy,
            "crowd_cpu": outcome.crowd_cpu,
            "seen": outcome.seen,
            "problems": outcome.problems,
        }
        for outcome in outcomes
    ]
    name = time.strftime("hostile-%Y-%m-%dT%H%M%SZ.json", time.gmtime())
    (folder / name).write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    os.chdir(HERE)
    sys.exit(main(sys.argv[1:]))
