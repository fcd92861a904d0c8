"""The master's handle of the watcher: start it, hear it, start it again when it dies.

Promises: the watcher runs exactly while the serving configuration asks for it; one that dies is replaced after
a back-off, and what changed in between is still reported, as the new one looks back to the moment when the old
one was last known to watch. It runs as the user of the application, which may speak in its place: what makes no sense
costs it its process, and the master nothing. Refuses to know what a change leads to. The watcher's own body is
watcher.py.

Owned by the master's only thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config import ServerConfig
from ..server.channel import NO_MEMORY
from . import reports
from .policy import backoff
from .privileges import Identity
from .roster import HEALTHY_SECONDS
from .spawn import LAST_PACKETS, PACKETS_A_TURN, Closable, Descriptor, Started, start_helper
from .watcher import WatchOrder, describe

logger = logging.getLogger("serverd.master")

# A change may fall between the watcher's report and its death; one that is reported twice costs a reload, no more.
_OVERLAP: Final = 1.0
_LARGEST_PACKET: Final = 256 * 1024
_MOST_MORE: Final = 10**9


@dataclass(frozen=True, slots=True)
class News:
    """One packet of the watcher: files that have changed, and how many more; or that it watches; or why it cannot."""

    changed: tuple[str, ...] = ()
    more: int = 0
    watching: bool = False
    failed: str = ""

    @classmethod
    def read(cls, packet: bytes) -> News:
        """What is in `packet`. Raises ValueError when it makes no sense."""
        try:
            raw = json.loads(packet)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        paths, more = raw.get("changed", []), raw.get("more", 0)
        if not (isinstance(paths, list) and all(isinstance(path, str) for path in paths)):
            raise ValueError("the changed files are no list of names")
        if type(more) is not int or not 0 <= more < _MOST_MORE:
            raise ValueError("the number of changed files is none")
        return cls(tuple(paths), more, bool(raw.get("watching")), str(raw.get("failed", "")))


class Watching:
    """The watcher as the master sees it; `on_change` is called with the cause of a reload."""

    def __init__(self, selector: selectors.BaseSelector, on_change: Callable[[str], None]) -> None:
        self._selector = selector
        self._on_change = on_change
        self._process: Started | None = None
        self._config: ServerConfig | None = None
        self._identity: Identity | None = None
        self._since = time.time()  # from here on no change may be lost
        self._started_at = -math.inf
        self._failures = 0
        self._failed_at = -math.inf

    def configure(self, config: ServerConfig, identity: Identity | None) -> None:
        """Watch what `config` asks for from now on."""
        before, self._config, self._identity = self._config, config, identity
        if before is not None and (before.reload, before.source) != (config.reload, config.source):
            self.stop()

    def due(self) -> float:
        """When a watcher has to be started, in monotonic seconds; infinite when there is nothing to do."""
        if self._process is not None or self._config is None or not self._config.reload.enabled:
            return math.inf
        return self._failed_at + backoff(self._failures)

    def start(self, belongings: Iterable[Closable], now: float) -> None:
        """Start it. What the machine refuses now is due again after a back-off."""
        assert self._config is not None
        order = WatchOrder.from_config(self._config, self._since)
        try:
            self._process = start_helper(order.code(), self._identity, belongings)
        except OSError as error:
            self._count_failure(now)
            logger.warning(
                "cannot start the watcher (%s); next try in %.1f s", error.strerror, backoff(self._failures)
            )
            return
        self._started_at = now
        self._selector.register(self._process.channel, selectors.EVENT_READ, self._hear)
        self._selector.register(self._process.pidfd, selectors.EVENT_READ, self._on_exit)

    def stop(self) -> None:
        """End it, at once: it holds nothing that could be lost."""
        if self._process is None:
            return
        os.kill(self._process.pid, signal.SIGKILL)
        os.waitpid(self._process.pid, 0)
        self._forget(self._process)
        self._since = time.time()

    def bury(self, pid: int, status: int) -> bool:
        """`pid` was reaped by somebody else; True if it was ours."""
        if self._process is None or self._process.pid != pid:
            return False
        self._died(self._process, status)
        return True

    @property
    def pid(self) -> int:
        """The watcher's process; 0 without one."""
        return 0 if self._process is None else self._process.pid

    def belongings(self) -> Iterator[Closable]:
        """Our end of its channel, and its pidfd."""
        if self._process is not None:
            yield self._process.channel
            yield Descriptor(self._process.pidfd)

    def _on_exit(self) -> None:
        assert self._process is not None
        pid, status = os.waitpid(self._process.pid, os.WNOHANG)
        if pid:
            self._died(self._process, status)

    def _died(self, process: Started, status: int) -> None:
        if self._selector.get_map().get(process.channel) is not None:
            with contextlib.suppress(OSError):  # no memory: it has been reaped, and is buried all the same
                self._hear(LAST_PACKETS)
        self._forget(process)
        self._count_failure(time.monotonic())
        how = reports.how_it_ended(status)
        logger.error(
            "the watcher (pid %d) %s; it starts again in %.1f s", process.pid, how, backoff(self._failures)
        )

    def _forget(self, process: Started) -> None:
        for thing in (process.channel, process.pidfd):
            if self._selector.get_map().get(thing) is not None:
                self._selector.unregister(thing)
        process.channel.close()
        os.close(process.pidfd)
        self._process = None

    def _hear(self, most: int = PACKETS_A_TURN) -> None:
        """Read what the watcher has said, no more than `most` packets."""
        assert self._process is not None
        paths: dict[str, None] = {}
        more = 0
        for _ in range(most):
            try:
                packet = self._process.channel.sock.recv(_LARGEST_PACKET)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in NO_MEMORY:  # it is still there
                    raise
                packet = b""
            if not packet:  # the end of it: its exit follows, and counts
                self._hear_no_more()
                break
            try:
                news = News.read(packet)
            except ValueError as error:
                logger.error("the watcher (pid %d) talks nonsense (%s): killing it", self._process.pid, error)
                os.kill(self._process.pid, signal.SIGKILL)
                self._hear_no_more()
                break
            paths.update(dict.fromkeys(news.changed))
            more += news.more
            self._hear_news(news)
        if paths:
            self._since = time.time() - _OVERLAP
            self._on_change(describe(list(paths), more, self._near()))

    def _hear_no_more(self) -> None:
        assert self._process is not None
        if self._selector.get_map().get(self._process.channel) is not None:
            self._selector.unregister(self._process.channel)

    def _hear_news(self, news: News) -> None:
        assert self._config is not None
        if news.watching:
            logger.info("watching %s for changes", reports.names(self._config.reload.dirs))
        if news.failed:
            logger.error("cannot watch for changes: %s", news.failed)

    def _near(self) -> list[Path]:
        """The folders from which a person would name a file, the nearest first."""
        assert self._config is not None
        folders = (Path.cwd(), self._config.app_dir, *self._config.reload.dirs)
        return [Path(os.path.realpath(folder)) for folder in folders]

    def _count_failure(self, now: float) -> None:
        healthy = now - self._started_at >= HEALTHY_SECONDS
        self._failures = 1 if healthy else self._failures + 1
        self._failed_at = now
