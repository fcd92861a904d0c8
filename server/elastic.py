"""How many threads a child has, between ``workers.threads.min`` and ``max``: the decision, and what it is made from.

Promises: threads are added only while requests wait *and* the CPU has room, by half as many as there are, so that 4
become 64 in eight steps; they leave when the busiest moment of ``CALM`` seconds needed fewer. Refuses: to add threads
that would only wait for the CPU; to end a thread in the middle of anything (``workforce`` asks one that is idle).

Whether the CPU has room: the kernel counts for each thread how long it ran, and how long it wanted to run and had to
wait (schedstat(5) of proc). What is left of the time it was blocked, in a query, a lock or a sleep.

Belongs to the child's main thread; ``decide`` is pure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

# A wait that counts, in seconds. Twice the step in which the kernel tells it where HZ is 250.
WAITS: Final = 0.01
# Threads that were not needed for so long may leave.
CALM: Final = 10.0
# So much of the CPUs in use is all of them: the rest goes to the kernel's own work and to the home loop.
_FULL: Final = 0.9
# Two measurements that are further apart say nothing about now, and closer together they are mostly noise; in seconds.
_STALE: Final = 1.0
_TOO_SOON: Final = 0.02
_BILLION: Final = 1_000_000_000


class Use(NamedTuple):
    """Of some threads over a moment: how many ran, and how many wanted to run and waited for a CPU, on average."""

    running: float
    delayed: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known when it is decided."""

    threads: int
    least: int
    most: int
    cpus: int  # that the threads can use at the same time: 1 with a GIL
    wait: float  # how long requests wait in the queue, in seconds
    use: Use | None  # of the CPUs; None: not measured
    busiest: int  # the most threads that were seen to be busy at a time since `calm_since`
    calm_since: float  # since when nothing waited, and no thread has come or gone
    now: float


def decide(sample: Sample) -> int:
    """How many threads more (or, below 0, fewer) there should be."""
    if sample.threads < sample.least:
        return sample.least - sample.threads
    if sample.wait >= WAITS:
        if sample.threads >= sample.most or sample.use is None or limited_by_cpu(sample):
            return 0
        return min(sample.most - sample.threads, max(1, sample.threads // 2))
    if sample.threads > sample.least and sample.now - sample.calm_since >= CALM:
        surplus = sample.threads - max(sample.least, sample.busiest + 1)
        return -((surplus + 1) // 2) if surplus > 0 else 0
    return 0


def limited_by_cpu(sample: Sample) -> bool:
    """Whether more threads would only wait for the CPU.

    They would when the threads that run or want to run fill the CPUs. And also before that, when most threads want to
    run and wait as long as they run: then a quota (cgroups' cpu.max) or other processes have the rest.
    """
    if sample.use is None:
        return False
    running, delayed = sample.use
    wanted = running + delayed
    return wanted >= _FULL * sample.cpus or (wanted >= sample.threads / 2 and delayed >= running)


class CpuMeter:
    """What threads did with their time between two calls of ``measure``."""

    def __init__(self, folder: Path = Path("/proc/self/task")) -> None:
        self._folder = folder
        self._at = 0.0
        self._process = 0.0
        self._times: dict[int, tuple[int, int]] = {}

    def measure(self, threads: Iterable[int], now: float) -> Use | None:
        """The use of the CPU since the last call, by the threads (their native ids) that were there then too.

        None when there is nothing to compare with. Where the kernel keeps no account of threads, it is that of the
        process as a whole.
        """
        apart = now - self._at
        if apart < _TOO_SOON:
            return None
        times = {tid: entry for tid in threads if (entry := self._read(tid)) is not None}
        process = time.process_time()
        before, self._times = self._times, times
        used, self._process = process - self._process, process
        self._at = now
        if apart > _STALE:
            return None
        both = times.keys() & before.keys()
        if not both:
            return Use(used / apart, 0.0)
        running = sum(times[tid][0] - before[tid][0] for tid in both)
        delayed = sum(times[tid][1] - before[tid][1] for tid in both)
        # A wait is counted when it ends: a thread that has waited all the time looks as if it were blocked.
        starved = sum(times[tid] == before[tid] and self._wants_to_run(tid) for tid in both)
        return Use(running / _BILLION / apart, delayed / _BILLION / apart + starved)

    def _read(self, tid: int) -> tuple[int, int] | None:
        """Nanoseconds that the thread ran, and waited to run."""
        try:
            ran, waited, _ = (self._folder / str(tid) / "schedstat").read_bytes().split()
            return int(ran), int(waited)
        except OSError, ValueError:
            return None

    def _wants_to_run(self, tid: int) -> bool:
        try:
            return (self._folder / str(tid) / "stat").read_bytes().rpartition(b") ")[2][:1] == b"R"
        except OSError:
            return False
