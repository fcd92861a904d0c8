"""What is made larger in the section `growth`, step by step: threads, processes, connections, headers and bodies.

Each `Series` is serverd at its ordinary settings but for the one that grows. Its servers have half of the CPUs and the
load the others; only where a CPU is what is asked for (`busy`) servers and load share all of them. Nothing is
started here; requests and answers are written into the folder. One thread calls all of this.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import contestants, load, machine, rate_load
from .apps import busy, sized
from .contestants import APPS, HELLO
from .rate_load import Exchange
from .report import Result
from .servers import Contestant

CONNECTIONS = 64
BODY_CONNECTIONS = 16  # ten megabytes on each are 160 under way
THREADS = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = (1, 2, 4, 8)
OPEN = (1, 8, 64, 256, 1024, 4096)
MOST_BUSY = 96  # all steps are there at the same time: 316 processes, some 5 GB
# Beside Host. `limits.headers` is 100 by default, and Host is one of them.
HEADERS = (0, 8, 16, 32, 64, 99)
SIZES = (0, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Step:
    """One n: who is asked what, over how many connections, in a closed loop."""

    n: int
    row: Contestant | Result
    asked: Exchange | load.Load  # a Load where one thread of ours could be too little: wrk
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class Series:
    """See the module. `unit` is one of n; `cores` are the CPUs that are used."""

    name: str
    title: str
    unit: str
    cores: machine.Cores
    steps: list[Step]
    scales: bool = False  # n are the threads or processes that serve: the throughput should grow with them

    @property
    def by_throughput(self) -> bool:
        """Whether the knee is one of the throughput, as more of them at a time may answer more; else of the cost."""
        return self.scales or self.unit == "connection"

    @property
    def units(self) -> str:
        """More than one of them."""
        return f"{self.unit}es" if self.unit.endswith("s") else f"{self.unit}s"


def every(folder: Path) -> Iterator[Series]:
    """All of them, in the order in which they are measured."""
    apart, shared = machine.choose_cores(), _all_cpus()
    yield _threads(apart)
    yield _processes(apart)
    yield from _busy(shared, folder)
    yield _connections(apart, folder)
    yield _headers(apart, folder, new=False)
    yield _headers(apart, folder, new=True)
    yield _requests(apart, folder)
    yield _responses(apart, folder)


def _threads(cores: machine.Cores) -> Series:
    steps = [Step(n, _hello({"workers.threads": str(n)}, f"1 × {n}"), load.http()) for n in THREADS]
    return Series("threads", '"Hello, World!", threads in one process', "thread", cores, steps, scales=True)


def _processes(cores: machine.Cores) -> Series:
    steps = [
        Step(n, _hello({"workers.processes": str(n), "workers.threads": "1"}, f"{n} × 1"), load.http())
        for n in PROCESSES
    ]
    title = '"Hello, World!", processes with one thread each'
    return Series("processes", title, "process", cores, steps, scales=True)


def _busy(cores: machine.Cores, folder: Path) -> Iterator[Series]:
    """A request that is nothing but CPU time: what threads and processes make of all CPUs."""
    most = min(4 * len(cores.server), MOST_BUSY)
    counts = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96) if n <= most]
    asked = rate_load.exchange(folder, "busy", rate_load.get(), b"%05d" % busy.compute())
    for name, unit, processes, threads in (
        ("busy threads", "thread", "1", "{n}"),
        ("busy processes", "process", "{n}", "1"),
    ):
        steps = []
        for n in counts:
            settings = {
                "workers.processes": processes.format(n=n),
                "workers.threads": threads.format(n=n),
            }
            row = _serverd("busy:app", APPS, settings, f"{name}: {n}")
            steps.append(Step(n, row, asked, connections=2 * most))
        title = f"about a millisecond of arithmetic, {name}"
        yield Series(name, title, unit, cores, steps, scales=True)


def _connections(cores: machine.Cores, folder: Path) -> Series:
    asked = rate_load.exchange(folder, "hello", rate_load.get())
    row = _hello({"workers.threads": str(len(cores.server))}, "connections")
    steps = [Step(n, row, asked, connections=n) for n in OPEN]
    return Series("connections", '"Hello, World!", keep-alive connections', "connection", cores, steps)


def _headers(cores: machine.Cores, folder: Path, *, new: bool) -> Series:
    """`new`: every request has another path, so that no server has seen its head before."""
    row = _hello({"workers.threads": str(len(cores.server))}, "headers")
    path = f"/{rate_load.NUMBER.decode()}" if new else "/"
    steps = []
    for n in HEADERS:
        fields = b"".join(b"x-field-%02d: abcdefghijklmnop\r\n" % number for number in range(n))
        asked = rate_load.exchange(folder, f"headers-{new}-{n}", rate_load.get(path, fields))
        steps.append(Step(n, row, asked))
    name, how = ("new headers", "each head a new one") if new else ("headers", "the same head each time")
    title = f'"Hello, World!", headers of 28 bytes beside Host, {how}'
    return Series(name, title, "header", cores, steps)


def _requests(cores: machine.Cores, folder: Path) -> Series:
    row = _serverd("sized:app", APPS, {"workers.threads": str(len(cores.server))}, "bodies")
    steps = []
    for n in SIZES:
        head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % n
        asked = rate_load.exchange(folder, f"request-{n}", head + sized.body(n), b"%d" % n)
        steps.append(Step(n, row, asked, BODY_CONNECTIONS))
    title = f"a body that the application reads to its end, {BODY_CONNECTIONS} connections"
    return Series("request body", title, "byte", cores, steps)


def _responses(cores: machine.Cores, folder: Path) -> Series:
    row = _serverd("sized:app", APPS, {"workers.threads": str(len(cores.server))}, "bodies")
    steps = [
        Step(
            n,
            row,
            rate_load.exchange(folder, f"response-{n}", rate_load.get(f"/{n}"), sized.body(n)),
            BODY_CONNECTIONS,
        )
        for n in SIZES
    ]
    title = f"a response in one piece, {BODY_CONNECTIONS} connections"
    return Series("response body", title, "byte", cores, steps)


def _hello(settings: Mapping[str, str], name: str) -> Contestant | Result:
    return _serverd("hello:app", HELLO, settings, name)


def _serverd(app: str, folder: Path, settings: Mapping[str, str], name: str) -> Contestant | Result:
    (row,) = contestants.serverd(app, folder, f"serverd ({name})", settings)
    return row


def _all_cpus() -> machine.Cores:
    every = frozenset(os.sched_getaffinity(0))
    return machine.Cores(every, every)
