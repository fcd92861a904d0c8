"""What the clients of the mixed load saw, what was done to the daemons meanwhile, and which failure that explains.

Promises: `excuse` is pure, and the only place that knows what may go wrong; what it has no words for is unexpected.
Threads: the load's own writes; others read when it has ended, or as a hint.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# A child that is told to die may accept in that moment; so may a client's clock be read a little late.
_SLACK: Final = 0.3
# A child that was told to leave is gone after timeouts.graceful at the latest; until then it ends WebSockets, streams.
LEAVING: Final = 25.0
# A load that did not run for so long has been too late for some deadline of the server's, perhaps with several things
# in a row. It explains that a connection ended or was refused as too slow; no other answer, and no wrong byte.
LATE: Final = 0.7
_TOO_LATE: Final = ("status 408", "BrokenPipe", "Connection", "IncompleteRead", "TimeoutError")
REPLACING: Final = frozenset({"reload", "upgrade", "scale", "kill"})


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to `daemon` from `at` to `until`; to `pid` alone if there is one."""

    at: float
    until: float
    what: str
    daemon: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An exchange that did not end as it should. `pid`: the child that gave the connection's last answer, at `proven`;
    None on a new one, which was begun then."""

    at: float
    daemon: str
    kind: str
    why: str
    pid: int | None
    proven: float


def excuse(failure: Failure, events: Iterable[Event]) -> str | None:
    """What explains it: the name of the event. None: nothing does."""
    ours = [event for event in events if event.daemon == failure.daemon and event.at <= failure.at]
    passed_on = any(event.what in REPLACING and event.until + LEAVING >= failure.proven for event in ours)
    for event in ours:
        if _explains(event, failure, passed_on):
            return event.what
    return None


def _explains(event: Event, failure: Failure, passed_on: bool) -> bool:
    """`passed_on`: the connection may have another child since it was proven."""
    if event.what == "kill" and failure.kind == "admin plane":
        # The only child is gone until the next one is there.
        return failure.at <= event.until + 1 and "no child serves" in failure.why
    if event.what == "kill" and event.at >= failure.proven - _SLACK:
        # A child that is killed takes its connections along.
        return failure.pid in (None, event.pid) or passed_on
    if event.what in REPLACING and failure.at <= event.until + LEAVING:
        # WebSockets are closed with 1012, event streams completed early; both say so themselves.
        return failure.why.startswith(("1012", "completed early"))
    if event.what == "late" and event.until >= failure.proven - LEAVING:
        return failure.why.startswith(_TOO_LATE) or ": 408 and not" in failure.why
    if event.what == "squeeze" and failure.at <= event.until + 1:
        # The application cannot open its file.
        return failure.kind == "file" and failure.why.startswith("status 500")
    if event.what == "kill admin" and event.at >= failure.proven - _SLACK:
        return failure.kind == "admin plane"
    return False


@dataclass(slots=True)
class Tally:
    """See the module."""

    answered: Counter[tuple[str, str]] = field(default_factory=Counter)  # by daemon and kind
    by_status: Counter[tuple[str, int]] = field(default_factory=Counter)  # by daemon
    slowest: dict[tuple[str, str], float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    over: bool = False

    def good(self, daemon: str, kind: str, number: int, took: float) -> None:
        """`number` exchanges that were as they should be."""
        self.answered[daemon, kind] += number
        self.slowest[daemon, kind] = max(took, self.slowest.get((daemon, kind), 0.0))

    def bad(self, daemon: str, kind: str, why: str, pid: int | None, proven: float) -> None:
        """One that was not."""
        self.failures.append(Failure(time.monotonic(), daemon, kind, why, pid, proven))

    def verdicts(self) -> tuple[Counter[str], list[Failure]]:
        """How many failures each kind of event explains, and those that nothing does."""
        excused: Counter[str] = Counter()
        left = []
        for failure in self.failures:
            what = excuse(failure, self.events)
            if what is None:
                left.append(failure)
            else:
                excused[what] += 1
        return excused, left
