"""The master's handle of a template (`workers.preload`): what it does, and what may follow. A table and nothing else.

Promises: the table is the only authority, as in child_state.py: a pair of phase and event that it does not have
raises `OutOfTurn` and changes nothing; once SIGKILL is on its way, what the template had still said is heard and
changes nothing either. The template's own body is server/template.py; nursery.py has its descriptors in hand, and
policy.py decides when there is one.

Owned by the master's only thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..server.channel import Channel

# Told once for each order to fork: the new process and a pidfd of it, or why there is none.
type Born = Callable[[int, int], None]
type StillBorn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is to hear of the child that a template was ordered to fork; one of the two is called, once."""

    born: Born
    failed: StillBorn


class Phase(enum.Enum):
    """Where a template is in its life; the value is the word for log lines."""

    IMPORTING = "importing"  # the process exists, and the application's import has not ended
    READY = "ready"  # it waits for an order to fork
    FORKING = "forking"  # it was given one, and has not answered
    FAILED = "failed"  # it has said that it cannot import, and is about to exit
    KILLED = "killed"  # SIGKILL is on its way


class Event(enum.Enum):
    """What can happen to a template, apart from its end."""

    IMPORTED = "imported"  # message Preloaded
    CANNOT = "cannot import"  # message BootFailed
    ASKED = "asked"  # an order to fork was sent
    ANSWERED = "answered"  # message Forked
    KILL_SENT = "kill sent"


class OutOfTurn(Exception):
    """This event cannot happen to a template in this phase: a mistake of ours, or somebody else on its channel."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"a template that is {phase.value} cannot see '{event.value}'")


_TABLE: Final[Mapping[Phase, Mapping[Event, Phase]]] = MappingProxyType(
    {
        Phase.IMPORTING: {
            Event.IMPORTED: Phase.READY,
            Event.CANNOT: Phase.FAILED,
            Event.KILL_SENT: Phase.KILLED,
        },
        Phase.READY: {
            Event.ASKED: Phase.FORKING,
            Event.KILL_SENT: Phase.KILLED,
        },
        Phase.FORKING: {
            Event.ANSWERED: Phase.READY,
            Event.KILL_SENT: Phase.KILLED,
        },
        Phase.FAILED: {
            Event.KILL_SENT: Phase.KILLED,
        },
        Phase.KILLED: {
            Event.IMPORTED: Phase.KILLED,
            Event.CANNOT: Phase.KILLED,
            Event.ANSWERED: Phase.KILLED,
        },
    }
)


def next_phase(phase: Phase, event: Event) -> Phase:
    """The phase that `event` leads to from `phase`. Raises OutOfTurn when the table has no such cell."""
    try:
        return _TABLE[phase][event]
    except KeyError:
        raise OutOfTurn(phase, event) from None


@dataclass(slots=True, eq=False)
class Template:
    """One process that has imported the application, or is about to; there is one at a time for each generation.

    `asked` hears when the order that is under way is answered, or can be answered no more.
    """

    generation: int
    began: float
    since: float  # when it entered its phase
    phase: Phase = Phase.IMPORTING
    pid: int = 0
    pidfd: int = -1
    channel: Channel | None = None
    asked: Asked | None = None
    lost_at: float | None = None  # when its channel ended
    not_needed: bool = False  # killed because nobody wants children of its generation any more
    cannot_import: bool = False  # it has said so, whatever became of it since
    killed_because: str = ""

    @property
    def takes_orders(self) -> bool:
        """Whether it can be asked for a child now."""
        return self.phase is Phase.READY and self.lost_at is None

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return f"template g{self.generation}"

    def apply(self, event: Event, now: float) -> None:
        """Record `event`. Raises OutOfTurn, and then nothing has changed."""
        phase = next_phase(self.phase, event)
        if event is Event.CANNOT:
            self.cannot_import = True
        if phase is not self.phase:
            self.phase = phase
            self.since = now
