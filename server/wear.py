"""When a child has served long enough: `workers.max_requests`, `max_lifetime`, `max_rss`, `max_growth`.

Promises: a child says once, and only for a limit that is set, that it is worn out, and goes on serving: the master
starts its replacement first. Refuses to decide when that comes (supervisor/policy.py: one at a time).

`Wear` belongs to the child's main thread, which looks when `due` says so: once a second under load, more and more
seldom while nothing happens, and never when no limit is set.
"""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass
from typing import Final

from ..config import WorkersConfig
from ..config.units import format_duration, format_size

# How often the counters are looked at, in seconds. One look is 3 us with the memory (statm), under 1 us without.
_SHORTEST: Final = 1.0
_LONGEST: Final = 16.0
# Memory grows while an application warms up (caches, lazy imports): growth counts from here on.
WARM: Final = 60.0

REASONS: Final = frozenset({"max_requests", "max_lifetime", "max_rss", "max_growth"})

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of one child, its jitter included; 0: none. Times in seconds, memory in bytes."""

    requests: int
    lifetime: float
    rss: int
    growth: int

    @classmethod
    def of(cls, workers: WorkersConfig, chance: float) -> Limits:
        """`chance`: 0 to 1, drawn once for each child."""
        requests = workers.max_requests
        if requests:
            requests += round(workers.max_requests_jitter * chance)
        return cls(requests, workers.max_lifetime, workers.max_rss, workers.max_growth)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a child has done so far; `warm_rss` is 0 until it is warm."""

    requests: int
    age: float
    rss: int
    warm_rss: int


def worn_out(limits: Limits, facts: Facts) -> tuple[str, str] | None:
    """Which limit is reached (its name, for counters) and the words for it; pure."""
    if limits.requests and facts.requests >= limits.requests:
        return "max_requests", f"{facts.requests} requests (workers.max_requests)"
    if limits.lifetime and facts.age >= limits.lifetime:
        return "max_lifetime", f"{format_duration(round(facts.age))} of life (workers.max_lifetime)"
    if limits.rss and facts.rss >= limits.rss:
        return "max_rss", f"{_mib(facts.rss)} of memory (workers.max_rss is {format_size(limits.rss)})"
    grown = facts.rss - facts.warm_rss
    if limits.growth and facts.warm_rss and grown >= limits.growth:
        return "max_growth", f"{_mib(grown)} more memory than when it was warm (workers.max_growth)"
    return None


class Wear:
    """See the module. Begins at `now`, when the child is ready."""

    def __init__(self, workers: WorkersConfig, now: float, chance: float | None = None) -> None:
        self._limits = Limits.of(workers, random.random() if chance is None else chance)
        self._began = now
        self._weighs = bool(self._limits.rss or self._limits.growth)
        self._counts = bool(self._limits.requests)
        self._warm_rss = 0
        self._interval = _SHORTEST
        self._seen = 0
        self._next = now + _SHORTEST if self._weighs or self._counts else math.inf
        self._said = False

    @property
    def due(self) -> float:
        """When to look next (monotonic); infinite when there is nothing to look for any more."""
        if self._said:
            return math.inf
        end = self._began + self._limits.lifetime if self._limits.lifetime else math.inf
        return min(self._next, end)

    def look(self, requests: int, now: float) -> tuple[str, str] | None:
        """As `worn_out`, once; `requests`: how many this child has read."""
        if now < self.due:
            return None
        rss = resident() if self._weighs else 0
        if self._weighs and not self._warm_rss and now >= self._began + WARM:
            self._warm_rss = rss
        if self._weighs or self._counts:
            idle = requests == self._seen and (not self._limits.growth or self._warm_rss)
            self._interval = min(_LONGEST, 2 * self._interval) if idle else _SHORTEST
            self._seen = requests
            self._next = now + self._interval
        found = worn_out(self._limits, Facts(requests, now - self._began, rss, self._warm_rss))
        self._said = found is not None
        return found


def resident(pid: int | str = "self") -> int:
    """The resident set of a process in bytes (proc_pid_statm(5)); 0 when it cannot be read."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError, ValueError, IndexError:
        return 0


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
