"""Who is there: the children and generations of the master, and what has happened to each of them.

Promises: bookkeeping only. Every change of a child's state goes through child_state.next_state; every method
records one fact and says what it meant. Refuses to decide (policy.py), to act (master.py) and to read the
clock: the time is given, in seconds of `time.monotonic()`.

Owned by the master's only thread; nothing in here is locked.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from ..config import ServerConfig
from ..server.channel import BootFailed, Channel
from ..server.scoreboard import NO_PAPERS, Papers
from .child_state import Event, State, next_state
from .privileges import Identity
from .template import Template

# A child that served this long before it died had nothing wrong at its start: the back-off begins anew.
HEALTHY_SECONDS: Final = 60.0

# How long a child may take from its last word (Drained) to its exit when nothing else limits it.
EXIT_GRACE: Final = 10.0

BOOT_FAILURE_STATUS: Final = 3
NOT_LOADABLE_STATUS: Final = 4


class Departure(enum.Enum):
    """What the exit of a child means."""

    EXPECTED = enum.auto()  # it was told to go
    CANNOT_BOOT = enum.auto()  # it was gone before it was ready
    LEFT = enum.auto()  # it drained by itself (somebody sent it SIGTERM) and exited with 0
    CRASHED = enum.auto()  # it served, and is gone


@dataclass(slots=True, eq=False)
class Child:
    """The master's handle of one child; what the child itself does is in server/child.py."""

    index: int
    generation: int
    since: float  # when it entered its state
    state: State = State.NEW
    pid: int = 0
    pidfd: int = -1
    channel: Channel | None = None
    ready_at: float | None = None
    told: bool = False  # told to go
    lame: bool = False  # told to say `Connection: close`
    leaving: bool = False  # told to go, or going by itself: somebody else may take its place
    final: bool = False  # told that the whole server stops
    patience: float = math.inf  # when a drain has lasted long enough
    lost_at: float | None = None  # when its channel ended although it was not leaving
    cannot_boot: bool = False  # it has said so, whatever became of it since
    worn: str = ""  # why it is to be replaced: a name for counters
    worn_at: float = math.inf  # since when, or when its replacement may be tried again
    replaces: Child | None = None  # who leaves when this one is ready
    killed_because: str = ""
    threads: int = 0  # workers, as it said when it became ready; none in `mode: async`
    gil: bool = False
    standing: bool = False  # none of its threads gets on; see vigil.py
    lost_threads: int = 0  # of it, so far
    papers: Papers = NO_PAPERS  # what it writes on; its last words are read here

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"worker {self.index} g{self.generation}"

    def apply(self, event: Event, now: float) -> None:
        """Record `event`. Raises IllegalTransition, and then nothing has changed."""
        state = next_state(self.state, event)
        if event is Event.DRAINED and self.patience == math.inf:
            self.patience = now + EXIT_GRACE
        if state is State.READY:
            self.ready_at = now
        if event in (Event.DRAIN_SENT, Event.STOP_SENT):
            self.told = True
        if state in (State.DRAINING, State.STOPPING):
            self.leaving = True
        if state is not self.state:
            self.state = state
            self.since = now


@dataclass(slots=True)
class Slot:
    """The place of one index in a generation: how often its children died in a row, how often in a row the machine has
    refused to start one, and when the last of both was."""

    failures: int = 0
    refusals: int = 0
    failed_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class BootFailure:
    """Why a generation cannot serve; `status` is the exit status of the daemon if there is nothing else to
    serve."""

    status: int
    error: str

    @classmethod
    def told(cls, message: BootFailed) -> BootFailure:
        """What a child has said of itself. It does not choose how the daemon exits: 0 would look like a success."""
        known = message.exit_code in (BOOT_FAILURE_STATUS, NOT_LOADABLE_STATUS)
        return cls(message.exit_code if known else BOOT_FAILURE_STATUS, message.error)


@dataclass(slots=True, eq=False)
class Generation:
    """The children that run one reading of the configuration and of the application's code."""

    number: int
    config: ServerConfig
    cause: str
    began: float
    wanted: int
    identity: Identity | None = None
    failure: BootFailure | None = None
    slots: dict[int, Slot] = field(default_factory=dict)
    template_slot: Slot = field(default_factory=Slot)
    on_trial: bool = (
        False  # its first child serves beside the old generation, and is compared (`reload.canary`)
    )
    looked_at: float = -math.inf  # when it was compared last
    imported_in: float = 0.0  # seconds that its template took; `timeouts.boot` counts them for the children

    def slot(self, index: int) -> Slot:
        """The record of the place `index` (made on first use by those who record, never by those who only look)."""
        return self.slots.setdefault(index, Slot())


# How a reload ended, for those who asked for it: whether the new generation serves, and the line of the log about it.
Outcome = Callable[[bool, str], None]


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """Somebody wants a new generation. `newer_code`: files changed, so one that boots now may be out of date.
    `asked`: who hears how it ends."""

    cause: str
    newer_code: bool
    asked: tuple[Outcome, ...] = ()


class Urgency(enum.IntEnum):
    """How a server is stopped; each wish that comes while it stops can only make it more urgent."""

    GRACEFUL = 0  # requests in flight have the time that the configuration gives them
    FAST = 1  # they are given up, but the application's lifespan is shut down in good order
    NOW = 2  # SIGKILL


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The whole server stops, and exits with `status`. handed_over: only this process does, a new master serves."""

    urgency: Urgency
    status: int
    handed_over: bool = False


@dataclass(slots=True, eq=False)
class Roster:
    """All of it. `current` serves, `booting` will when it is ready; children of other generations are on their
    way out."""

    children: list[Child] = field(default_factory=list)
    templates: list[Template] = field(default_factory=list)
    current: Generation | None = None
    booting: Generation | None = None
    request: ReloadRequest | None = None
    shutdown: Shutdown | None = None
    upgrading: bool = False  # a new master boots, or has failed and has not exited yet
    taking_over: bool = False  # an old master has not let go yet
    follows: bool = False  # the old master has let go, and still drains
    lame_until: float | None = None  # the server stops then, and says so to load balancers until then
    superseded: int = 0  # generations in a row that were given up for newer code
    last_number: int = 0
    restarts: Counter[str] = field(default_factory=Counter[str])  # children replaced, by reason

    @property
    def stopping(self) -> bool:
        """Whether the server is on its way out, as a lame duck or in earnest."""
        return self.shutdown is not None or self.lame_until is not None

    def generations(self) -> Iterator[Generation]:
        """Those whose children should exist, the serving one first."""
        if self.current is not None:
            yield self.current
        if self.booting is not None:
            yield self.booting

    def generation(self, number: int) -> Generation | None:
        """The living generation of that number."""
        return next((item for item in self.generations() if item.number == number), None)

    def of(self, generation: Generation) -> list[Child]:
        """The children of `generation` that hold a place in it, in no particular order."""
        return [
            child for child in self.children if child.generation == generation.number and not child.leaving
        ]

    def ready(self, generation: Generation) -> list[Child]:
        """Those of them that serve."""
        return [child for child in self.of(generation) if child.state is State.READY]

    def template(self, generation: Generation) -> Template | None:
        """The process that has imported, or imports, the application for `generation`."""
        return next((item for item in self.templates if item.generation == generation.number), None)

    def can_start(self, generation: Generation) -> bool:
        """Whether a child of `generation` could come to be now: the master forks, or a template that is ready."""
        if not generation.config.workers.preload:
            return True
        template = self.template(generation)
        return template is not None and template.takes_orders

    def begin(self, config: ServerConfig, identity: Identity | None, cause: str, now: float) -> Generation:
        """A new generation starts to boot; one that was booting is superseded."""
        self.superseded = self.superseded + 1 if self.booting is not None else 0
        self.last_number += 1
        wanted = config.workers.process_count()
        self.booting = Generation(self.last_number, config, cause, now, wanted, identity)
        self.booting.on_trial = config.reload.canary > 0 and self.current is not None
        return self.booting

    def promote(self) -> Generation:
        """The booting generation is the one that serves from now on."""
        assert self.booting is not None
        self.current, self.booting, self.superseded = self.booting, None, 0
        return self.current

    def give_up(self) -> Generation:
        """The booting generation will never serve."""
        assert self.booting is not None
        failed, self.booting, self.superseded = self.booting, None, 0
        return failed

    def ask_reload(self, cause: str, *, newer_code: bool, asked: tuple[Outcome, ...] = ()) -> None:
        """Note a wish for a reload; wishes that wait are one, named after the latest that brought newer code."""
        if self.request is None:
            self.request = ReloadRequest(cause, newer_code, asked)
        elif newer_code or not self.request.newer_code:
            self.request = ReloadRequest(cause, newer_code, self.request.asked + asked)
        else:
            self.request = replace(self.request, asked=self.request.asked + asked)

    def scale(self, by: int) -> int:
        """One child more or less in every generation that lives, the last one stays; the new number."""
        for generation in self.generations():
            generation.wanted = max(min(1, generation.wanted), generation.wanted + by)
        return self.wanted

    def scale_to(self, number: int) -> int:
        """So many children in every generation that lives."""
        for generation in self.generations():
            generation.wanted = number
        return self.wanted

    @property
    def wanted(self) -> int:
        """How many children there should be, in the generation that has the most."""
        return max((generation.wanted for generation in self.generations()), default=0)

    def drain_sent(self, child: Child, now: float, *, final: bool, patience: float) -> None:
        """`child` was told to drain within `patience` seconds; an earlier deadline stays."""
        child.apply(Event.DRAIN_SENT, now)
        child.final = child.final or final
        child.patience = min(child.patience, now + patience)

    def wear_out(self, child: Child, reason: str, now: float) -> bool:
        """`child` should be replaced. False if that was known, or it is about to go anyway."""
        if child.worn or child.leaving:
            return False
        child.worn, child.worn_at = reason, now
        return True

    def successor(self, child: Child) -> Child | None:
        """Who boots, or serves already, in the place of `child`."""
        return next((other for other in self.children if other.replaces is child), None)

    def boot_failed(self, child: Child, message: BootFailed, now: float) -> None:
        """`child` has said that it cannot boot."""
        child.apply(Event.BOOT_FAILED, now)
        child.cannot_boot = True
        if not child.told:
            self._cannot_boot(child, BootFailure.told(message), now)

    def spawn_failed(self, child: Child, now: float) -> None:
        """No process came to be: the machine has no more to give now."""
        child.apply(Event.SPAWN_FAILED, now)
        if child in self.children:  # a template was asked for it
            self.children.remove(child)
        generation = self.generation(child.generation)
        if generation is not None:
            slot = generation.slot(child.index)
            slot.refusals += 1
            slot.failed_at = now

    def template_cannot(self, template: Template, failure: BootFailure) -> None:
        """`template` has said that it cannot import the application."""
        self._fail(template.generation, failure)

    def template_ended(self, template: Template, failure: BootFailure | None, now: float) -> None:
        """`template` is reaped, for the reason `failure`; None: it never was a process."""
        if template in self.templates:
            self.templates.remove(template)
        generation = self.generation(template.generation)
        if generation is None or template.not_needed:
            return
        slot = generation.template_slot
        if failure is None:
            slot.refusals += 1
        else:
            slot.failures = 1 if now - template.began >= HEALTHY_SECONDS else slot.failures + 1
            slot.refusals = 0
        slot.failed_at = now
        if failure is not None:
            self._fail(template.generation, failure)

    def exited(self, child: Child, status: int, error: str, now: float) -> Departure:
        """`child` is reaped with `status` (negative: the signal). `error` says so in words."""
        before = child.state
        child.apply(Event.EXITED, now)
        self.children.remove(child)
        for other in self.children:
            if other.replaces is child:
                other.replaces = None
                if child.worn and child.told:
                    self.restarts[child.worn] += 1
        if child.told:
            return Departure.EXPECTED
        if child.cannot_boot:  # counted when it said so
            return Departure.CANNOT_BOOT
        if child.ready_at is None:
            self._cannot_boot(child, BootFailure(BOOT_FAILURE_STATUS, error), now)
            return Departure.CANNOT_BOOT
        self._count_failure(child, now)
        departure = Departure.LEFT if before is State.DRAINING and status == 0 else Departure.CRASHED
        self._canary_died(child, error)
        self.restarts["left" if departure is Departure.LEFT else "crash"] += 1
        return departure

    def _canary_died(self, child: Child, error: str) -> None:
        generation = self.generation(child.generation)
        if generation is not None and generation.on_trial:
            self._fail(child.generation, BootFailure(BOOT_FAILURE_STATUS, f"canary: {error}"))

    def _cannot_boot(self, child: Child, failure: BootFailure, now: float) -> None:
        self._count_failure(child, now)
        self._fail(child.generation, failure)

    def _fail(self, number: int, failure: BootFailure) -> None:
        """Generation `number` cannot boot, if it still does; the first reason counts."""
        if self.booting is not None and self.booting.number == number and self.booting.failure is None:
            self.booting.failure = failure

    def _count_failure(self, child: Child, now: float) -> None:
        generation = self.generation(child.generation)
        if generation is None:
            return
        slot = generation.slot(child.index)
        healthy = child.ready_at is not None and now - child.ready_at >= HEALTHY_SECONDS
        slot.failures = 1 if healthy else slot.failures + 1
        slot.refusals = 0
        slot.failed_at = now
