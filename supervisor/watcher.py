"""The watcher: a process of its own that tells the master which files have changed.

Promises: no change is lost between the moment named in its order (`since`) and its own start: when its watches
are in place it looks through the folders for files that changed since then; what belongs together arrives
together (a save is reported after 50 ms of quiet, a large checkout after `reload.debounce` at the latest); one
save is reported once, however many events an editor makes of it; it ends when the master does. Refuses to run
in the master: watchfiles has a native thread, and the master forks.

It says `{"watching": true}` when it is ready, `{"changed": [path, ...], "more": N}` for changes, and
`{"failed": why}` before it exits because it cannot watch: one JSON object to a packet of its channel.
watchfiles looks at its own list of events every 50 ms while it waits (it has no other way), which costs this
process nothing that can be measured, and the others nothing at all.

Threads, in the watcher's process only: one for each set of watches and one that waits for the end of the
master. They share a `Reporter`, which holds a lock for the few things in it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Protocol

from ..config import ServerConfig

# Never anybody's code, often large, and written to while an application is imported.
IGNORED_FOLDERS: Final = frozenset(
    {
        "__pycache__",
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        ".tox",
        ".nox",
        "node_modules",
        "site-packages",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".idea",
    }
)

_QUIET_MS: Final = 50
_LEAST_STEP_MS: Final = 10
_MOST_NAMED: Final = 50
# The kernel stamps files with the time of its last tick, up to 10 ms ago (CONFIG_HZ=100).
_TICK: Final = 0.01
# Until what could not be said for want of memory is said again, in seconds.
_AGAIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class WatchOrder:
    """What to watch, in plain types, as it travels on a command line. `since` is in seconds since the epoch."""

    dirs: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    debounce: float
    source: str | None
    since: float

    @classmethod
    def from_config(cls, config: ServerConfig, since: float) -> WatchOrder:
        """What `config` asks for, with links followed, as the kernel reports real paths."""
        wish = config.reload
        source = None if config.source is None else os.path.realpath(config.source)
        dirs = tuple(dict.fromkeys(os.path.realpath(folder) for folder in wish.dirs))
        return cls(dirs, wish.include, wish.exclude, wish.debounce, source, since)

    def code(self) -> str:
        """The statement that runs the watcher, for spawn.start_helper."""
        return f"from serverd.supervisor.watcher import main; main({{fd}}, {json.dumps(asdict(self))!r})"


def wanted(path: str, order: WatchOrder) -> bool:
    """Whether a change of `path` (absolute) counts. Pure.

    A pattern without a slash is compared with the name, or for `exclude` with the name of any folder above it;
    one with a slash is compared with the path below the watched folder.
    """
    if path == order.source:
        return True
    for folder in order.dirs:
        prefix = folder.rstrip("/") + "/"
        if path.startswith(prefix):
            parts = path[len(prefix) :].split("/")
            if IGNORED_FOLDERS.isdisjoint(parts[:-1]) and not _excluded(parts, order.exclude):
                return any(_matches(parts, len(parts), pattern) for pattern in order.include)
    return False


def _excluded(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(_matches(parts, end, pattern) for pattern in patterns for end in range(1, len(parts) + 1))


def _matches(parts: Sequence[str], end: int, pattern: str) -> bool:
    """Whether the path of the first `end` parts is what `pattern` names."""
    pattern = pattern.removeprefix("./").rstrip("/")
    return fnmatchcase("/".join(parts[:end]) if "/" in pattern else parts[end - 1], pattern)


def changed_since(order: WatchOrder) -> Iterator[str]:
    """The files that count and whose status changed at `order.since` or later (a rename counts, as ctime moves)."""
    threshold = order.since - _TICK
    candidates = [order.source] if order.source is not None else []
    for folder in order.dirs:
        for where, below, files in os.walk(folder):
            below[:] = [name for name in below if name not in IGNORED_FOLDERS]
            candidates.extend(os.path.join(where, name) for name in files)
    for path in dict.fromkeys(candidates):
        try:
            if wanted(path, order) and os.stat(path).st_ctime >= threshold:
                yield path
        except OSError:
            continue


def describe(paths: Sequence[str], more: int, near: Sequence[Path]) -> str:
    """`notes/app.py changed`, `notes/app.py and 2 more changed`; shown from the first of `near` that holds it."""
    first = Path(paths[0])
    shown = next(
        (str(first.relative_to(folder)) for folder in near if first.is_relative_to(folder)), str(first)
    )
    others = len(paths) - 1 + more
    verb = "changed" if others or first.exists() else "is gone"
    return f"{shown} and {others} more {verb}" if others else f"{shown} {verb}"


class Watch(Protocol):
    """What we use of watchfiles' RustNotify."""

    def watch(
        self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: None
    ) -> set[tuple[int, str]] | str:
        """The next changes as (kind, path), or a word that says why there are none."""


class Reporter:
    """Sends to the master what has changed. Shared by the watching threads; `_lock` guards `_last`, and the
    order of packets is that of the calls."""

    def __init__(self, sock: socket.socket, order: WatchOrder) -> None:
        self._sock = sock
        self._order = order
        self._lock = threading.Lock()
        self._last: dict[str, tuple[int, int, int] | None] = {}

    def watching(self) -> None:
        """Every watch is in place."""
        self._send({"watching": True})

    def failed(self, why: str) -> None:
        """There will be no watch."""
        self._send({"failed": why})

    def report(self, paths: Sequence[str]) -> None:
        """Tell of those `paths` that count and that differ from what was told before."""
        with self._lock:
            news = [path for path in sorted(set(paths)) if wanted(path, self._order) and self._is_news(path)]
            if news:
                self._send({"changed": news[:_MOST_NAMED], "more": max(0, len(news) - _MOST_NAMED)})

    def _is_news(self, path: str) -> bool:
        try:
            found = os.stat(path)
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            mark = None
        if path in self._last and self._last[path] == mark:
            return False
        self._last[path] = mark
        return True

    def _send(self, message: Mapping[str, object]) -> None:
        packet = json.dumps(message).encode("ascii")
        while True:
            try:
                self._sock.send(packet)
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                    os._exit(0)  # the master is gone
                time.sleep(_AGAIN)
            else:
                return


def main(fd: int, text: str) -> None:
    """The watcher's whole life: `fd` is its end of the channel, `text` its order."""
    import setproctitle  # noqa: PLC0415 - see _watches

    order = WatchOrder(**json.loads(text))
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    setproctitle.setproctitle("serverd: watcher")
    for number in (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
    ):  # a terminal sends them to all: the master decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_master, args=(sock,), daemon=True).start()
    reporter = Reporter(sock, order)
    try:
        watches = _watches(order)
    except Exception as error:  # noqa: BLE001 - watchfiles raises OSError, RuntimeError and its own; the master tells
        reporter.failed(str(error))
        sys.exit(1)
    missed = list(changed_since(order))
    reporter.watching()
    reporter.report(missed)
    for watch in watches[1:]:
        threading.Thread(target=_follow, args=(watch, order, reporter), daemon=True).start()
    _follow(watches[0], order, reporter)


def _watches(order: WatchOrder) -> list[Watch]:
    """Watches on everything that `order` names, in place when this returns."""
    # Imported here, as the master imports this module too. Not watchfiles.watch: it hides when the watches are in
    # place, and RustNotify's constructor returns just then.
    from watchfiles._rust_notify import RustNotify  # noqa: PLC0415

    groups = [(list(order.dirs), True)]
    if order.source is not None and not _is_below(order.source, order.dirs):
        # The folder and not the file: an editor that replaces the file would leave a watch on the one that is gone.
        groups.append(([os.path.dirname(order.source)], False))
    return [RustNotify(folders, False, False, 300, recursive, True) for folders, recursive in groups]


def _is_below(path: str, dirs: Sequence[str]) -> bool:
    return any(path.startswith(folder.rstrip("/") + "/") for folder in dirs)


def _follow(watch: Watch, order: WatchOrder, reporter: Reporter) -> None:
    longest = max(_LEAST_STEP_MS, round(order.debounce * 1000))
    while True:
        found = watch.watch(longest, min(_QUIET_MS, longest), 0, None)
        if isinstance(found, set):
            reporter.report([path for _, path in found])


def _end_with_master(sock: socket.socket) -> None:
    """The master says nothing on this channel, so the only news is its end."""
    while True:
        try:
            sock.recv(1)
        except InterruptedError, ConnectionResetError:
            break
        except OSError:  # no memory: it is still there
            time.sleep(_AGAIN)
            continue
        break
    os._exit(0)
