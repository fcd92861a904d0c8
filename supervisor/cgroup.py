"""What the control groups of this process say about memory: how much is left, and whom the kernel has killed for it.

Promises: the nearest limit counts, wherever above this process it is set (cgroups(7), v2 and v1); where nothing
is told (no cgroup file system, no limit) the answer is None, never an error. Refuses to keep anything: every
call reads the kernel's files anew.

May be called by any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
# v1 says "no limit" as the largest multiple of the page size below 2**63.
_UNLIMITED: Final = 1 << 62


def headroom(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that can still be allocated before the nearest limit is reached; None when there is no limit.

    The page cache that the kernel would give back first (inactive_file in memory.stat) counts as free.
    """
    left: list[int] = []
    for folder, limit_name, usage_name in _folders(root, membership):
        limit = _number(folder / limit_name)
        usage = _number(folder / usage_name)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            reclaimable = _field(folder / "memory.stat", "inactive_file") or 0
            left.append(max(0, limit - max(0, usage - reclaimable)))
    return min(left, default=None)


def oom_kills(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """How many processes of this one's own control group the kernel has killed for want of memory; None: unknown."""
    for folder, _, _ in _folders(root, membership):
        for name in ("memory.events", "memory.oom_control"):
            found = _field(folder / name, "oom_kill")
            if found is not None:
                return found
        return None
    return None


def _folders(root: Path, membership: Path) -> Iterator[tuple[Path, str, str]]:
    """This process's memory control group and those above it: (folder, name of the limit, name of the usage)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            yield from _upwards(root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
            return
    if "" in groups:
        yield from _upwards(root, groups[""], "memory.max", "memory.current")


def _upwards(root: Path, path: str, limit: str, usage: str) -> Iterator[tuple[Path, str, str]]:
    folder = root / path.lstrip("/")
    while not folder.is_dir() and folder != root:
        folder = folder.parent  # a container sees its own group as the root of the file system
    yield folder, limit, usage
    while folder != root:
        folder = folder.parent
        yield folder, limit, usage


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except OSError, ValueError:  # "max": no limit
        return None


def _field(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except OSError, ValueError:
        pass
    return None
