"""What the health checks answer, decided purely from a snapshot.

Promises: a verdict is one line that a person can read, and says what is missing. ``/livez``: the master answers.
``/startupz``: the first generation has served, and then for good. ``/readyz``: a client that comes now is served
soon: a generation serves, nobody wants the traffic to go elsewhere, and a worker thread was idle not long ago.
Refuses: to look at anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .snapshot import Snapshot

# A master that turns its loop answers within a millisecond. It may be forking, reading a configuration or resolving a
# name; after so long it hangs, and whoever watches it should start it anew.
DEAF: Final = 10.0

_SERVING: Final = frozenset({"serving", "reloading"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ok``, and why (not)."""

    ok: bool
    reason: str


def alive(silence: float) -> Verdict:
    """``silence``: for how many seconds the master has owed an answer."""
    if silence >= DEAF:
        return Verdict(False, f"the master has not answered for {silence:.0f} s")
    return Verdict(True, "the master is there" if silence else "the master answers")


def started(snapshot: Snapshot | None) -> Verdict:
    """Whether the application has ever served."""
    if snapshot is None:
        return Verdict(False, "the master has published nothing yet")
    if snapshot.generation is None:
        return Verdict(False, f"{snapshot.state}: no generation has served yet")
    return Verdict(True, "the first generation has served")


def ready(snapshot: Snapshot | None, capacity: Capacity, limit: float) -> Verdict:
    """Whether requests should come here. ``limit``: seconds without an idle thread; 0: that does not matter."""
    if snapshot is None:
        return Verdict(False, "the master has published nothing yet")
    if snapshot.state == "handed over":  # we are asked over a connection that was accepted a moment before
        return Verdict(True, "another master serves here now")
    if snapshot.lame_duck:
        return Verdict(False, "lame duck: going away, new connections should go elsewhere")
    if snapshot.state not in _SERVING:
        return Verdict(False, snapshot.state)
    serving = snapshot.ready()
    if not serving:
        return Verdict(False, "no child serves")
    full = capacity.full(snapshot.now)
    if limit and full >= limit:
        threads = sum(child.workers for child in serving)
        return Verdict(False, f"no idle capacity: all {threads} threads busy for {full:.1f} s")
    return Verdict(True, f"generation {snapshot.generation} serves")


@dataclass(slots=True)
class Capacity:
    """When a worker thread of a ready child was last idle, as far as the looks at it can tell.

    Between two looks that are further apart than ``gap`` nobody knows. The benefit of the doubt ends where the present
    request of the thread that took its request last began: from then on all of them were busy. One thread's own.
    """

    gap: float = 2.5
    idle_at: float | None = None
    looked_at: float | None = None

    def look(self, snapshot: Snapshot) -> None:
        """Take note of who is idle."""
        now = snapshot.now
        serving = [child for child in snapshot.ready() if child.workers]
        if not serving or any(len(child.busy) < child.workers for child in serving):
            # With no worker threads at all (`mode: async`, or no child) idleness says nothing.
            self.idle_at = now
        elif self.looked_at is None or now - self.looked_at > self.gap:
            newest = max(thread.since or now for child in serving for thread in child.busy)
            self.idle_at = newest if self.idle_at is None else max(self.idle_at, newest)
        self.looked_at = now

    def full(self, now: float) -> float:
        """For how many seconds there has been no idle thread."""
        return 0.0 if self.idle_at is None else max(0.0, now - self.idle_at)
