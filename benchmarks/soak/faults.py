"""What is done to the daemons of the mixed load, one thing at a time: each writes down from when to when, to whom.

Promises: only processes of these daemons are touched, each by its number; what was squeezed or stopped is let go again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from typing import Final

from .daemon import Daemon, Gone
from .tally import Event

_READY: Final = r"generation (\d+) ready"
_CHILD_READY: Final = r"\"worker (\d+) g\d+ \(pid \d+\) is ready"


class Faults:
    """See the module. `note` is told of each event before it begins and, with its end, after it. One thread's."""

    def __init__(self, note: Callable[[Event], None], chance: random.Random) -> None:
        self._note = note
        self._chance = chance
        self.took: dict[str, list[float]] = {}

    def do(self, what: str, name: str, daemon: Daemon) -> None:
        """One of `KINDS`, to the daemon `name`. Raises Gone, OSError."""
        daemon.forget()
        began = time.monotonic()
        victim = _KINDS[what](self, name, daemon)
        seconds = time.monotonic() - began
        self.took.setdefault(what, []).append(seconds)
        self._note(Event(began, began + seconds, what, name, victim))

    def _begins(self, what: str, name: str, pid: int | None = None) -> None:
        """Failures may come before the event is over."""
        now = time.monotonic()
        self._note(Event(now, now, what, name, pid))

    def _victim(self, daemon: Daemon) -> int:
        workers = daemon.workers()
        if not workers:
            raise Gone("no worker is there")
        return self._chance.choice(workers)

    def _reload(self, name: str, daemon: Daemon) -> None:
        self._begins("reload", name)
        daemon.signal(signal.SIGHUP)
        daemon.wait(_READY)

    def _upgrade(self, name: str, daemon: Daemon) -> None:
        self._begins("upgrade", name)
        before = daemon.master
        daemon.signal(signal.SIGUSR2)
        daemon.wait(_READY)
        while daemon.master == before:
            time.sleep(0.01)
        daemon.wait("the old master leaves|this one drains and leaves")

    def _kill(self, name: str, daemon: Daemon) -> int:
        victim = self._victim(daemon)
        self._begins("kill", name, victim)
        os.kill(victim, signal.SIGKILL)
        # The victim may be an old one that still drains: then nobody follows it.
        if "; a new one" in daemon.wait(rf"pid {victim}\) (was killed.*)")[0]:
            daemon.wait(_CHILD_READY)
        return victim

    def _kill_admin(self, name: str, daemon: Daemon) -> int:
        victim = next((pid for pid, role in daemon.children() if role == "admin"), None)
        if victim is None:
            raise Gone("no admin process is there")
        self._begins("kill admin", name, victim)
        os.kill(victim, signal.SIGKILL)
        daemon.wait(rf"admin process \(pid {victim}\)")
        return victim

    def _stop(self, name: str, daemon: Daemon) -> int:
        """A child that does not run for a while, as on a machine that has other things to do."""
        victim = self._victim(daemon)
        self._begins("stop", name, victim)
        try:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(1.0)
        finally:
            os.kill(victim, signal.SIGCONT)
        return victim

    def _squeeze(self, name: str, daemon: Daemon) -> int:
        """A child with next to no descriptors left."""
        victim = self._victim(daemon)
        before = resource.prlimit(victim, resource.RLIMIT_NOFILE)
        self._begins("squeeze", name, victim)
        try:
            numbers = [int(fd) for fd in os.listdir(f"/proc/{victim}/fd")]
            resource.prlimit(victim, resource.RLIMIT_NOFILE, (len(numbers) + 1, before[1]))
            time.sleep(3.0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(victim, resource.RLIMIT_NOFILE, before)
        return victim

    def _log(self, name: str, daemon: Daemon) -> None:
        """Nobody reads the log for a while."""
        self._begins("log", name)
        daemon.reads.clear()
        try:
            time.sleep(3.0)
        finally:
            daemon.reads.set()

    def _scale(self, name: str, daemon: Daemon) -> None:
        """A child more, and a child less."""
        self._begins("scale", name)
        daemon.ask("scale", by=1)
        daemon.wait(_CHILD_READY)
        time.sleep(2.0)
        daemon.ask("scale", by=-1)


_KINDS: Final[dict[str, Callable[[Faults, str, Daemon], int | None]]] = {
    "reload": Faults._reload,
    "upgrade": Faults._upgrade,
    "kill": Faults._kill,
    "kill admin": Faults._kill_admin,
    "stop": Faults._stop,
    "squeeze": Faults._squeeze,
    "log": Faults._log,
    "scale": Faults._scale,
}

# Of each daemon what is done to it, as often as it stands here. Upgrades are for one: the masters of the others live
# from the beginning to the end, so that their growth shows.
PLAN: Final[dict[str, tuple[str, ...]]] = {
    "asgi": (
        *("reload", "reload", "upgrade", "upgrade", "kill", "kill", "kill"),
        *("kill admin", "stop", "squeeze", "log", "scale"),
    ),
    "tls": ("reload", "reload", "kill", "kill", "stop", "squeeze", "scale", "kill admin", "log"),
    "wsgi": ("reload", "reload", "kill", "kill", "stop", "squeeze", "scale", "log"),
}

# What a line of the log, which is no warning to be proud of, may say, and after which event.
EXPECTED: Final[tuple[tuple[str, str], ...]] = (
    ("was killed by SIGKILL", "kill"),
    (" held ", "kill"),
    ("of memory when it was last looked at", "kill"),
    ("the admin process", "kill admin"),
    ("Too many open files", "squeeze"),
    ("No file descriptors available", "squeeze"),
)


def unexpected(at: float, line: str, events: list[Event], late: float) -> bool:
    """Whether a line of a daemon's log needs an explanation that `events`, the daemon's, do not give. Pure."""
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    if entry["level"] in ("debug", "info"):
        return "Traceback" in line
    text = f"{entry['message']}\n{entry.get('exception', '')}"
    explanations = {what for part, what in EXPECTED if part in text}
    return not any(
        event.what in explanations and event.at - 0.5 <= at <= event.until + late for event in events
    )
