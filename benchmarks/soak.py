"""`make soak`: reloads, hot upgrades and killed children in a random order, under load; who was not answered, and why.

.venv/bin/python benchmarks/soak.py [--reloads 100] [--upgrades 20] [--kills 50] [--processes 2] [--clients 16]
[--imports 0.2] [--seed 1]

Every client always has a request in flight. A request without its answer is excused when the child that held its
connection was killed in that moment; any other is a loss. Prints the counts and how long each kind of event took.
About three minutes. Exit status: 0 nothing was lost, 1 something was (each is printed), or the daemon misbehaved.

.venv/bin/python benchmarks/soak.py --minutes 30 [--rate 1] [--seed 1]

The long one instead: a mixed load of clients that mean well or harm, on three daemons, at a bounded rate, and in its
second half faults of many kinds. See soak/mixed.py and docs/operations.md.
"""

# ruff: noqa: INP001 - a script and not a module of a package: `soak` beside it is the package

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from soak.daemon import Daemon, Gone, plain
from soak.load import Failure, Load
from soak.mixed import mixed

# A client hears of its child's end within this time, in seconds, on a busy machine too.
_HEARD = 1.0
# Between two events, so that the load reaches what the last one made.
_BETWEEN = 0.2


def main(argv: list[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        description="Reload, upgrade and kill under load, and count what is lost."
    )
    for name, number in (
        ("reloads", 100),
        ("upgrades", 20),
        ("kills", 50),
        ("processes", 2),
        ("clients", 16),
        ("seed", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=number, help="%(default)s")
    parser.add_argument(
        "--imports", type=float, default=0.2, help="seconds that the app's import takes (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=0, help="the mixed load, for so long, instead")
    parser.add_argument("--rate", type=float, default=1, help="of the mixed load: how much more than usual")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with all that cleans up
    with tempfile.TemporaryDirectory() as folder:
        return (mixed if options.minutes else soak)(Path(folder), options)


def soak(folder: Path, options: argparse.Namespace) -> int:
    """All of it in `folder`; the exit status."""
    events = ["reload"] * options.reloads + ["upgrade"] * options.upgrades + ["kill"] * options.kills
    chance = random.Random(options.seed)
    chance.shuffle(events)
    daemon = plain(folder, processes=options.processes, imports=options.imports)
    load = Load(daemon.port, options.clients)
    load.start()
    killed: dict[int, float] = {}
    took: dict[str, list[float]] = {"reload": [], "upgrade": [], "kill": []}
    began = time.monotonic()
    try:
        for number, event in enumerate(events, 1):
            took[event].append(_EVENTS[event](daemon, killed, chance))
            print(
                f"\r{number}/{len(events)} {event:<8} {took[event][-1]:.2f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(_BETWEEN)
        seconds = time.monotonic() - began
        totals = load.stop()
        daemon.stop()
    except (Gone, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        load.stop()
        return 1
    finally:
        daemon.kill()
    lost = [failure for failure in totals.failures if not _excused(failure, killed)]
    print(f"\n{totals.answered} requests of {options.clients} clients in {seconds:.0f} s")
    print(f"{totals.connections} connections, {len(totals.pids)} children")
    for event, times in took.items():
        if times:
            print(
                f"{len(times)} × {event}: median {statistics.median(times):.2f} s, longest {max(times):.2f} s"
            )
    print(
        f"not answered: {len(totals.failures)}, of them held by a killed child: {len(totals.failures) - len(lost)}"
    )
    print(f"lost: {len(lost)}; slowest answer: {totals.slowest:.2f} s")
    for failure in lost[:20]:
        print(f"  {failure.at - began:.3f} s: {failure.why} (child {failure.pid})")
    for line in daemon.problems():
        print(f"  in the log: {line}")
    return 1 if lost or daemon.problems() else 0


def _excused(failure: Failure, killed: dict[int, float]) -> bool:
    """Whether a killed child held the request; one on a new connection may have been anybody's."""
    if failure.pid is not None:
        return failure.pid in killed and -_HEARD < failure.at - killed[failure.pid] < _HEARD
    return any(0 <= failure.at - at < _HEARD for at in killed.values())


def _reload(daemon: Daemon, killed: dict[int, float], chance: random.Random) -> float:
    began = time.monotonic()
    daemon.signal(signal.SIGHUP)
    return daemon.wait(r"generation \d+ ready")[1] - began


def _upgrade(daemon: Daemon, killed: dict[int, float], chance: random.Random) -> float:
    began = time.monotonic()
    before = daemon.master
    daemon.signal(signal.SIGUSR2)
    at = daemon.wait(r"generation \d+ ready")[1]
    while daemon.master == before:
        time.sleep(0.01)
    return at - began


def _kill(daemon: Daemon, killed: dict[int, float], chance: random.Random) -> float:
    """How long until the successor is ready."""
    serving = [pid for pid in daemon.workers() if pid not in killed]
    victim = chance.choice(serving)
    killed[victim] = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    # The victim may be an old one that still drains: then nobody follows it.
    if "; a new one" not in daemon.wait(rf"pid {victim}\) (was killed.*)")[0]:
        return 0.0
    return daemon.wait(r"worker \d+ g\d+ \(pid \d+\) is ready")[1] - killed[victim]


_EVENTS: dict[str, Callable[[Daemon, dict[int, float], random.Random], float]] = {
    "reload": _reload,
    "upgrade": _upgrade,
    "kill": _kill,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
