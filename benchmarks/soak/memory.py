"""What the processes of a daemon hold: memory, descriptors, threads; read from outside, judged by medians of windows.

Promises: all but `sample` is pure. Memory is the kernel's exact sum (smaps_rollup); `rss` counts shared pages in each
process, `private` only what nobody else has.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIELDS: Final = ("Rss", "Pss", "Private_Clean", "Private_Dirty")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment; sizes in KiB. `requests`: that it had answered, as the daemon told last."""

    at: float
    daemon: str
    role: str  # master, worker, admin
    pid: int
    rss: int
    pss: int
    private: int
    fds: int
    threads: int
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """What the interpreter of a child says: objects that the collector knows, after a collection, and blocks of memory
    that Python holds."""

    at: float
    daemon: str
    pid: int
    objects: int
    blocks: int


def sample(at: float, daemon: str, role: str, pid: int, requests: int) -> Sample | None:
    """None: it has ended meanwhile."""
    try:
        sizes = dict.fromkeys(_FIELDS, 0)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            if name in sizes:
                sizes[name] = int(value.split()[0])
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError, ValueError:
        return None
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    if not sizes["Rss"]:
        return None
    return Sample(at, daemon, role, pid, sizes["Rss"], sizes["Pss"], private, fds, threads, requests)


@dataclass(frozen=True, slots=True)
class Growth:
    """From the median of the first window to that of the last, and by the hour, as the whole series has it."""

    first: float
    last: float
    hourly: float

    @property
    def percent(self) -> float:
        """Of the first."""
        return 100 * (self.last / self.first - 1) if self.first else 0.0


def growth(points: Sequence[tuple[float, float]]) -> Growth:
    """`points`: (seconds, size), in their order; a window is a quarter of them. At least four points."""
    quarter = max(1, len(points) // 4)
    first = statistics.median(size for _, size in points[:quarter])
    last = statistics.median(size for _, size in points[-quarter:])
    slope = statistics.linear_regression(*zip(*points, strict=True)).slope
    return Growth(first, last, slope * 3600)


def series(values: Sequence[float], parts: int) -> list[float]:
    """The medians of `parts` equal parts; fewer if there are not so many."""
    step = max(1, len(values) // parts)
    return [
        statistics.median(values[at : at + step]) for at in range(0, min(len(values), step * parts), step)
    ]


def at_age(samples: Iterable[Sample], seconds: float) -> list[Sample]:
    """Of each master the first sample when it had been there for so long."""
    born: dict[int, float] = {}
    found: dict[int, Sample] = {}
    for one in samples:
        if one.role == "master" and one.at - born.setdefault(one.pid, one.at) >= seconds:
            found.setdefault(one.pid, one)
    return sorted(found.values(), key=lambda one: one.at)


def at_requests(samples: Iterable[Sample], number: int) -> list[Sample]:
    """Of each child the first sample after it had answered `number` requests, if that is not too late to compare."""
    found: dict[int, Sample] = {}
    for one in samples:
        if one.role == "worker" and number <= one.requests < 2 * number and one.pid not in found:
            found[one.pid] = one
    return sorted(found.values(), key=lambda one: one.at)
