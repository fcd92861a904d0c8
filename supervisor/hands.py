"""The hands of policy.py: each action that it decides, done by the part of the master whose it is.

Promises: one action, one call; acting changes the roster, so that the same is not decided again. Refuses to decide.

Owned by the master's only thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .actions import (
    Action,
    AskToDrain,
    AskToStop,
    BeginReload,
    EndLameDuck,
    GiveUp,
    Judge,
    KillChild,
    KillTemplate,
    Promote,
    Quit,
    Renew,
    SayClose,
    StartChild,
    StartTemplate,
)
from .crew import Crew
from .listeners import Listeners
from .nursery import Nursery
from .orders import Orders
from .rollout import Rollout
from .roster import Child, Generation, Urgency
from .spawn import Closable
from .trial import Trial


class Hands:
    """See the module. `belongings`: what of the master a child of a generation must not keep; `quit` ends the master
    with a status."""

    def __init__(
        self,
        listeners: Listeners,
        crew: Crew,
        nursery: Nursery,
        rollout: Rollout,
        orders: Orders,
        trial: Trial,
        belongings: Callable[[Generation | None], Iterable[Closable]],
        quit: Callable[[int], None],  # noqa: A002 - the action's name
    ) -> None:
        self._listeners = listeners
        self._crew = crew
        self._nursery = nursery
        self._rollout = rollout
        self._orders = orders
        self._trial = trial
        self._belongings = belongings
        self._quit = quit

    def act(self, action: Action) -> None:
        """Do it."""
        match action:
            case StartChild() | Renew() | StartTemplate() | KillTemplate():
                self._tend(action)
            case SayClose() | AskToDrain() | AskToStop() | KillChild():
                self._crew.dismiss(action)
            case Promote() | GiveUp() | BeginReload() | Judge():
                self._roll(action)
            case EndLameDuck():
                self._orders.stop(Urgency.GRACEFUL)
            case Quit(status):
                self._quit(status)

    def _tend(self, action: StartChild | Renew | StartTemplate | KillTemplate) -> None:
        match action:
            case StartChild(generation, index):
                self._start(generation, index, None)
            case Renew(generation, child):
                if self._crew.may_renew(child):
                    self._start(generation, child.index, child)
            case StartTemplate(generation):
                sockets = self._listeners.sockets(generation.config.listen)
                self._nursery.start(generation, sockets, self._belongings(generation))
            case KillTemplate(template, reason):
                self._nursery.kill(template, reason)

    def _start(self, generation: Generation, index: int, replaces: Child | None) -> None:
        sockets = self._listeners.sockets(generation.config.listen)
        self._crew.start(generation, index, sockets, lambda: self._belongings(generation), replaces)

    def _roll(self, action: Promote | GiveUp | BeginReload | Judge) -> None:
        match action:
            case Promote():
                self._rollout.promote()
            case GiveUp():
                if (status := self._rollout.give_up()) is not None:
                    self._orders.stop(Urgency.GRACEFUL, status)
            case BeginReload():
                self._rollout.begin()
            case Judge(generation, child, end):
                self._trial.look(generation, child, end, time.monotonic())
