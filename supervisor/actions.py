"""What the master can do next: the words in which policy.py decides and hands.py acts. Data, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from .roster import Child, Generation
from .template import Template


@dataclass(frozen=True, slots=True)
class StartChild:
    """The place `index` of `generation` is empty."""

    generation: Generation
    index: int


@dataclass(frozen=True, slots=True)
class Renew:
    """`child` is worn: start its successor beside it, if there is memory for both."""

    generation: Generation
    child: Child


@dataclass(frozen=True, slots=True)
class StartTemplate:
    """`generation` wants its children forked from a template, and there is none."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class KillTemplate:
    """It has had its chance; or nobody needs it any more: then `reason` is empty."""

    template: Template
    reason: str


@dataclass(frozen=True, slots=True)
class SayClose:
    """The server is a lame duck: `child` says `Connection: close` from now on."""

    child: Child


@dataclass(frozen=True, slots=True)
class EndLameDuck:
    """Load balancers have had the time to notice: stop in earnest."""


@dataclass(frozen=True, slots=True)
class AskToDrain:
    """`patience`: seconds until the master loses it (infinite when `timeouts.graceful` is 0)."""

    child: Child
    graceful: float
    final: bool
    close_idle: bool
    patience: float


@dataclass(frozen=True, slots=True)
class AskToStop:
    """It has to give up what is in flight; `reason` is empty when a person asked for that."""

    child: Child
    reason: str


@dataclass(frozen=True, slots=True)
class KillChild:
    """It has had its chance."""

    child: Child
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The booting generation is complete."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Compare the canary with what serves; `end`: the trial is over then."""

    generation: Generation
    child: Child
    end: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The booting generation has failed."""


@dataclass(frozen=True, slots=True)
class BeginReload:
    """Answer the request for a new generation."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Nobody is left."""

    status: int


Action = (
    StartChild
    | StartTemplate
    | KillTemplate
    | Renew
    | SayClose
    | EndLameDuck
    | AskToDrain
    | AskToStop
    | KillChild
    | Promote
    | Judge
    | GiveUp
    | BeginReload
    | Quit
)
