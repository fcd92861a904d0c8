"""A make-believe machine for policy.py: actions are carried out on the roster alone, at a time that the test sets.

No process, socket or clock is involved: what the children do is said by the test.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from serverd.config import ServerConfig
from serverd.server.channel import BootFailed
from serverd.supervisor import actions, policy
from serverd.supervisor.actions import Action
from serverd.supervisor.child_state import Event, State
from serverd.supervisor.roster import Child, Departure, Generation, Roster, Shutdown, Urgency


def configuration(processes: int = 1, *, reload: bool = False, **timeouts: float) -> ServerConfig:
    """A configuration with so many children; `boot=`, `graceful=` are seconds."""
    config = ServerConfig(app="demo:app")
    return replace(
        config,
        workers=replace(config.workers, processes=processes),
        reload=replace(config.reload, enabled=reload),
        timeouts=replace(config.timeouts, **timeouts),
    )


class World:
    """`settle` does all that the policy asks for at `now`; `done` is every action so far."""

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.now = 1000.0
        self.roster = Roster()
        self.done: list[Action] = []
        self.quit: int | None = None
        self.next_config = config or configuration()
        self.can_fork = True
        self.memory = True
        self._pid = 100
        self.roster.begin(self.next_config, None, "start", self.now)
        self.settle()

    def settle(self) -> float:
        """Act until nothing is due; when the policy wants to be asked again."""
        for _ in range(10_000):
            decision = policy.decide(self.roster, self.now)
            if not decision.actions or self.quit is not None:
                assert decision.wake_at > self.now, "the policy would spin"
                return decision.wake_at
            self.done.append(decision.actions[0])
            self._act(decision.actions[0])
        raise AssertionError(f"the policy does not settle: {decision.actions[0]}")

    def _act(self, action: Action) -> None:
        match action:
            case actions.StartChild() | actions.Renew():
                self._begin_child(action)
            case actions.SayClose() | actions.EndLameDuck() | actions.Judge():
                self._go_on(action)
            case actions.AskToDrain(child, _, final, _, patience):
                self.roster.drain_sent(child, self.now, final=final, patience=patience)
            case actions.AskToStop(child, _):
                child.apply(Event.STOP_SENT, self.now)
            case actions.KillChild(child, reason):
                child.killed_because = reason
                child.apply(Event.KILL_SENT, self.now)
            case actions.Promote():
                self.roster.promote()
            case actions.GiveUp():
                self._give_up()
            case actions.BeginReload():
                request, self.roster.request = self.roster.request, None
                assert request is not None
                self.roster.begin(self.next_config, None, request.cause, self.now)
            case actions.Quit(status):
                self.quit = status

    def _go_on(self, action: actions.SayClose | actions.EndLameDuck | actions.Judge) -> None:
        match action:
            case actions.Judge(generation, _, end):
                generation.looked_at = self.now
                generation.on_trial = self.now < end
            case actions.SayClose(child):
                child.lame = True
            case actions.EndLameDuck():
                self.roster.lame_until = None
                self.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)

    def _begin_child(self, action: actions.StartChild | actions.Renew) -> None:
        match action:
            case actions.StartChild(generation, index):
                self._start(Child(index, generation.number, self.now))
            case actions.Renew(generation, worn) if self.memory:
                self._start(Child(worn.index, generation.number, self.now, replaces=worn))
            case actions.Renew(_, worn):
                worn.worn_at = self.now + policy.RENEW_AGAIN

    def _start(self, child: Child) -> None:
        if not self.can_fork:
            self.roster.spawn_failed(child, self.now)
            return
        self._pid += 1
        child.pid = self._pid
        child.apply(Event.SPAWNED, self.now)
        self.roster.children.append(child)

    def _give_up(self) -> None:
        failure = self.roster.give_up().failure
        assert failure is not None
        if self.roster.current is None:
            self.roster.shutdown = Shutdown(Urgency.GRACEFUL, failure.status)

    # What happens to the children

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    def child(self, index: int = 0, generation: int | None = None, state: State | None = None) -> Child:
        """The only child that fits."""
        found = [
            child
            for child in self.roster.children
            if child.index == index
            and generation in (None, child.generation)
            and (child.state is state or (state is None and not child.leaving))
        ]
        assert len(found) == 1, f"{len(found)} children fit: {self.states()}"
        return found[0]

    def becomes_ready(self, *children: Child) -> None:
        for child in children:
            child.apply(Event.BECAME_READY, self.now)
        self.settle()

    def all_ready(self) -> None:
        """Every child that boots becomes ready, one after the other."""
        while booting := [child for child in self.roster.children if child.state is State.BOOTING]:
            self.becomes_ready(booting[0])

    def cannot_boot(self, child: Child, error: str = "SyntaxError", status: int = 4) -> None:
        self.roster.boot_failed(child, BootFailed("import", status, error, "Traceback"), self.now)
        self.settle()

    def exits(self, child: Child, status: int = 0) -> Departure:
        departure = self.roster.exited(child, status, f"{child.name} ended", self.now)
        self.settle()
        return departure

    # What there is to see

    def states(self) -> dict[str, str]:
        return {child.name: child.state.value for child in self.roster.children}

    def current(self) -> Generation:
        assert self.roster.current is not None
        return self.roster.current

    def actions(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.done if isinstance(action, kind)]

    def deadline(self) -> float:
        """Seconds until the policy wants to be asked again."""
        due = policy.decide(self.roster, self.now).wake_at
        return due - self.now if due != math.inf else math.inf
