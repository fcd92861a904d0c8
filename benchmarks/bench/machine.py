"""This machine: which cores the servers and the load get, and what must be known to compare one run with another.

Reads /proc and /sys only, and asks programs for their version; changes nothing but this process's own
affinity, for the moment in which a child is started (`pinned`). One thread calls all of this.
"""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")  # clock ticks a second in /proc/PID/stat


@dataclass(frozen=True, slots=True)
class Cores:
    """Which CPUs the servers and the load run on; the same sets when there are too few to part them."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether the load takes nothing from the servers."""
        return not self.server & self.load

    def __str__(self) -> str:
        server, load = (",".join(map(str, sorted(cpus))) for cpus in (self.server, self.load))
        return (
            f"servers on CPUs {server}, load on CPUs {load}"
            if self.apart
            else f"servers and load on CPUs {server}"
        )


def half_of_the_cpus() -> int:
    """How many CPUs a server may have so that the load has as many of its own; at least one."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def choose_cores(count: int | None = None) -> Cores:
    """`count` CPUs for the servers and as many others for the load, of different physical cores as far as they go.

    Half of all for the servers when none is said.
    """
    every = os.sched_getaffinity(0)
    count = count or half_of_the_cpus()
    ordered = sorted(every, key=lambda cpu: (_rank_among_siblings(cpu), cpu))
    if len(ordered) < 2 * count:
        return Cores(frozenset(every), frozenset(every))
    return Cores(frozenset(ordered[:count]), frozenset(ordered[count : 2 * count]))


def _rank_among_siblings(cpu: int) -> int:
    """0 for the first hardware thread of its core, 1 for the second."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return 0
    siblings: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings += range(int(first), int(last or first) + 1)
    return sorted(siblings).index(cpu) if cpu in siblings else 0


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """Children that are started inside run on `cpus`: affinity is inherited."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """`pid` and all that descend from it."""
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # that thread has just ended
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of the process tree so far, user and system, with that of children which were waited for."""
    ticks = 0
    for member in tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except OSError:
            continue
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))  # utime stime cutime cstime, proc(5)
    return ticks / TICK


def busy_seconds() -> float:
    """CPU time that the whole machine has spent so far and not idled, with what its host took away (steal)."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def memory_bytes(pid: int) -> int:
    """Memory of the process tree, pages that processes share counted once (PSS)."""
    total = 0
    for member in tree(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def describe(root: Path) -> dict[str, str | int]:
    """The machine and the commit, for the JSON result and the head of the table."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "commit": _commit(root),
        "wrk": (first_line(["wrk", "-v"]) or "unknown").partition(" Copyright")[0],
    }


def _commit(root: Path) -> str:
    """`62aa687-dirty`; `unknown` where git or the history is missing, as in an unpacked archive."""
    said = first_line(["git", "-C", str(root), "describe", "--always", "--dirty"])
    return said if said and not said.startswith("fatal:") else "unknown"


def first_line(command: list[str]) -> str | None:
    """The first line that a command writes, whatever its exit status (wrk -v ends with 1); None if it cannot run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=False
        )
    except OSError, subprocess.TimeoutExpired:
        return None
    return done.stdout.strip().partition("\n")[0] or None
