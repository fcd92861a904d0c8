"""What the master should do next, decided purely: `decide(roster, now) -> Decision` reads, and changes nothing.

Promises: everything that is due at `now`, and the time at which the next thing will be due; between the two
nothing has to be looked at, so the master sleeps until then or until something happens. Acting on a decision
changes the roster so that the same action is not decided again. Refuses to act, to log and to read the clock.

The rules, in words:
- a generation wants children 0 to `wanted`-1; a place that is empty is filled, after a back-off if its last child
  crashed, and a shorter one if the machine could not start it;
- a generation that boots takes over when all of its children are ready, and only then do the others drain;
- a generation that boots and fails is given up, and what serves is not touched;
- with `workers.preload` a generation has a template from its beginning to its end, and children only from that;
- a child is told to go before it is killed: drain, then stop, then SIGKILL, each after its time;
- with `reload.canary` the first child of a new generation serves alone beside the old ones until it has been compared;
- a lame duck serves on until its time is over, and begins nothing new;
- a worn child serves until its successor is ready; one place is renewed at a time, and none while a generation boots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
from .child_state import State
from .roster import EXIT_GRACE, Child, Roster, Slot, Urgency
from .template import Phase, Template

# Replacing at once would spin on a child that dies at once; the second crash in a row waits twice as long, and
# so on.
BACKOFF_FIRST: Final = 0.1
BACKOFF_LONGEST: Final = 30.0
# A process that the machine refuses to start (EAGAIN, ENOMEM, EMFILE) costs nothing, and what was short may be there
# again at any moment: with the waits of a crash a place stood empty for half a minute after that.
REFUSED_LONGEST: Final = 0.4

# The child counts `timeouts.graceful` itself, then cuts off what is left, names it and gives the lifespan's
# shutdown 5 s: the master steps in when all that did not happen. After Stop the same steps remain.
DRAIN_MARGIN: Final = 6.0
STOP_GRACE: Final = 8.0

# What a child is told for a `timeouts.graceful` of 0, which means no limit: a day, the longest that can be configured.
UNLIMITED: Final = 86400.0

# A child that still boots has no request to finish; this is for its lifespan to come to an end in good order.
ABANDON_GRACE: Final = 5.0
BOOT_STOP_GRACE: Final = 1.0

# The end of a channel comes a moment before the exit of its process; a process that lives on without is out of
# reach.
LOST_GRACE: Final = 2.0

# When there is no memory for two children at once, the next try is so long after; that is also how often it is said.
RENEW_AGAIN: Final = 60.0

# Forking a process of 230 MB twice took 45 ms, and it grows with the memory; one that takes so long hangs.
FORK_GRACE: Final = 10.0

# A canary that does much worse need not go on to its end: it is compared once in so many seconds.
CANARY_LOOK: Final = 1.0

# An application that writes a watched file while it boots would be superseded for ever; after so many it may
# finish.
MOST_SUPERSEDED: Final = 5

_AT_ONCE: Final = -math.inf


@dataclass(frozen=True, slots=True)
class Due:
    """An action and when it is due, in seconds of the monotonic clock."""

    at: float
    action: Action


@dataclass(frozen=True, slots=True)
class Decision:
    """What is due now, and when to ask again if nothing happens before (infinite: never)."""

    actions: tuple[Action, ...]
    wake_at: float


def decide(roster: Roster, now: float) -> Decision:
    """The next actions for `roster` at `now`; pure."""
    due = tuple(plan(roster))
    return Decision(
        actions=tuple(item.action for item in due if item.at <= now),
        wake_at=min((item.at for item in due if item.at > now), default=math.inf),
    )


def plan(roster: Roster) -> Iterator[Due]:
    """Everything that will be due if nothing happens, in the order in which it is to be done."""
    yield from _deadlines(roster)
    yield from _templates(roster)
    if roster.shutdown is not None:
        yield from _shut_down(roster)
        return
    yield from _dismiss(roster)
    yield from _fill_places(roster)
    if roster.lame_until is not None:
        yield from _lame_duck(roster, roster.lame_until)
        return
    yield from _renew(roster)
    yield from _roll(roster)


def backoff(failures: int) -> float:
    """Seconds that a place waits after its child has died for the `failures`-th time in a row (0: none)."""
    return min(BACKOFF_LONGEST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 16)) if failures else 0.0


def wait_of(slot: Slot) -> float:
    """Seconds that the place `slot` waits for its next child after `slot.failed_at`."""
    if slot.refusals:
        return min(REFUSED_LONGEST, backoff(slot.refusals))
    return backoff(slot.failures)


def is_said(slot: Slot) -> bool:
    """Whether the log names the refusal that is the last one of `slot`: the first ones in a row, then one in 30 s."""
    return slot.refusals <= 4 or slot.refusals % 75 == 0


def healthy(roster: Roster) -> bool:
    """True while every child that should be there serves and gets on, or boots within its deadline; for systemd's
    watchdog."""
    if roster.shutdown is not None or roster.current is None:
        return True
    present = {
        child.index
        for child in roster.of(roster.current)
        if child.state in (State.READY, State.BOOTING) and not child.standing
    }
    return present.issuperset(range(roster.current.wanted))


def fits(headroom: int | None, resident: int) -> bool:
    """Whether a successor of a child that holds `resident` bytes has room beside it. headroom: None for no limit."""
    return headroom is None or headroom >= resident


def longest_stop(graceful: float, urgency: Urgency) -> float:
    """Seconds from the wish to stop until the last child is killed; infinite when `timeouts.graceful` is 0."""
    if urgency is not Urgency.GRACEFUL:
        return STOP_GRACE
    return graceful + DRAIN_MARGIN + STOP_GRACE if graceful else math.inf


def _deadlines(roster: Roster) -> Iterator[Due]:
    """What each child's state allows it in time, whatever else goes on."""
    for child in roster.children:
        match child.state:
            case State.BOOTING:
                generation = roster.generation(child.generation)
                limit = generation.config.timeouts.boot if generation is not None else 0.0
                if generation is not None and limit:
                    yield Due(
                        child.since + limit - generation.imported_in,
                        KillChild(child, f"did not boot within {limit:g} s (timeouts.boot)"),
                    )
            case State.DRAINING if child.ready_at is None:
                yield Due(child.patience, KillChild(child, "was told to go while it booted, and does not"))
            case State.DRAINING:
                yield Due(child.patience, AskToStop(child, "has not drained in time"))
            case State.STOPPING:
                grace = STOP_GRACE if child.ready_at is not None else BOOT_STOP_GRACE
                yield Due(child.since + grace, KillChild(child, f"did not stop within {grace:g} s"))
            case State.FAILED:
                yield Due(child.since + EXIT_GRACE, KillChild(child, "could not boot and does not exit"))
            case _:
                pass
        if child.lost_at is not None and child.state in (State.BOOTING, State.READY):
            yield Due(child.lost_at + LOST_GRACE, KillChild(child, "closed its channel and lives on"))


def _templates(roster: Roster) -> Iterator[Due]:
    """One template for each generation that wants one; what is not needed, or does not do its part, is killed."""
    for template in roster.templates:
        yield from _template_deadlines(roster, template)
    if roster.shutdown is not None:
        return
    for generation in roster.generations():
        wanted = generation.config.workers.preload and generation.failure is None
        if wanted and roster.template(generation) is None:
            slot = generation.template_slot
            yield Due(slot.failed_at + wait_of(slot), StartTemplate(generation))


def _template_deadlines(roster: Roster, template: Template) -> Iterator[Due]:
    generation = roster.generation(template.generation) if roster.shutdown is None else None
    at_once = roster.shutdown is not None and roster.shutdown.urgency is Urgency.NOW
    limit = generation.config.timeouts.boot if generation is not None else 0.0
    match template.phase:
        case Phase.KILLED:
            return
        case Phase.FORKING if (
            not at_once
        ):  # a child that is under way is heard of first: it has to be told to go too
            reason = f"did not fork within {FORK_GRACE:g} s"
            yield Due(template.since + FORK_GRACE, KillTemplate(template, reason))
        case _ if generation is None:
            yield Due(_AT_ONCE, KillTemplate(template, ""))
        case Phase.IMPORTING if limit:
            reason = f"did not import the application within {limit:g} s (timeouts.boot)"
            yield Due(template.since + limit, KillTemplate(template, reason))
        case Phase.FAILED:
            yield Due(template.since + EXIT_GRACE, KillTemplate(template, "could not boot and does not exit"))
        case _:
            pass
    if template.lost_at is not None and template.phase is not Phase.FAILED:
        reason = "closed its channel and lives on"
        yield Due(template.lost_at + LOST_GRACE, KillTemplate(template, reason))


def _shut_down(roster: Roster) -> Iterator[Due]:
    assert roster.shutdown is not None
    for child in roster.children:
        if roster.shutdown.urgency is Urgency.NOW:
            if child.state not in (State.NEW, State.KILLED):
                yield Due(_AT_ONCE, KillChild(child, "was not given the time to stop"))
        elif roster.shutdown.urgency is Urgency.FAST:
            if child.state in (State.BOOTING, State.READY, State.FAILED, State.DRAINING):
                yield Due(_AT_ONCE, AskToStop(child, ""))
        elif child.state in (State.BOOTING, State.READY) or (
            child.state is State.DRAINING and not child.final and not roster.shutdown.handed_over
        ):
            # The new master's children accept from the same listeners, as after a reload.
            yield Due(_AT_ONCE, _farewell(roster, child, final=not roster.shutdown.handed_over))
    patient = roster.shutdown.urgency is Urgency.GRACEFUL
    others = roster.upgrading or (
        roster.follows and patient
    )  # other masters, whose end is the end of this service too
    if not roster.children and not roster.templates and not others:
        yield Due(_AT_ONCE, Quit(roster.shutdown.status))


def _dismiss(roster: Roster) -> Iterator[Due]:
    """Children whose generation is over, or whose place is no longer wanted."""
    for child in roster.children:
        generation = roster.generation(child.generation)
        if generation is not None and child.index < generation.wanted:
            continue
        if child.state in (State.BOOTING, State.READY):
            yield Due(_AT_ONCE, _farewell(roster, child, final=False))


def _farewell(roster: Roster, child: Child, *, final: bool) -> AskToDrain:
    latest = roster.current or roster.booting
    config = latest.config if latest is not None else None
    graceful = config.timeouts.graceful if config is not None else ABANDON_GRACE
    if child.state is State.BOOTING:
        patience = ABANDON_GRACE
    else:
        patience = graceful + DRAIN_MARGIN if graceful else math.inf
    close_idle = final or (config is not None and config.reload.enabled)
    return AskToDrain(child, graceful or UNLIMITED, final, close_idle, patience)


def _fill_places(roster: Roster) -> Iterator[Due]:
    for generation in roster.generations():
        if generation.failure is not None or not roster.can_start(generation):
            continue
        taken = {child.index for child in roster.of(generation)}
        for index in range(min(1, generation.wanted) if generation.on_trial else generation.wanted):
            if index not in taken:
                slot = generation.slots.get(index)
                at = slot.failed_at + wait_of(slot) if slot is not None else _AT_ONCE
                yield Due(at, StartChild(generation, index))


def _lame_duck(roster: Roster, until: float) -> Iterator[Due]:
    """Serve on, with places filled, but nothing new is begun."""
    for child in roster.children:
        if child.state is State.READY and not child.lame:
            yield Due(_AT_ONCE, SayClose(child))
    yield Due(until, EndLameDuck())


def _renew(roster: Roster) -> Iterator[Due]:
    """Replace what is worn, one after the other: the next one when the last one has gone."""
    current = roster.current
    if current is None or roster.booting is not None:
        return  # a generation that boots will replace them all
    for successor in roster.of(current):
        if (worn := successor.replaces) is not None:
            if successor.state is State.READY and worn.state is State.READY:
                yield Due(_AT_ONCE, _farewell(roster, worn, final=False))
            return
    if not roster.can_start(current):
        return
    tired = sorted(
        (child for child in roster.ready(current) if child.worn),
        key=lambda child: (child.worn_at, child.index),
    )
    for child in tired[:1]:
        slot = current.slots.get(child.index)
        at = slot.failed_at + wait_of(slot) if slot is not None else _AT_ONCE
        yield Due(max(at, child.worn_at), Renew(current, child))


def _roll(roster: Roster) -> Iterator[Due]:
    if roster.upgrading:
        return  # if the new master serves it has read everything anew; if not, what is wanted is still there
    booting, request = roster.booting, roster.request
    if booting is None:
        if request is not None:
            yield Due(_AT_ONCE, BeginReload())
    elif request is not None and request.newer_code and roster.superseded < MOST_SUPERSEDED:
        yield Due(_AT_ONCE, BeginReload())
    elif booting.failure is not None:
        yield Due(_AT_ONCE, GiveUp())
    elif booting.on_trial and booting.wanted:
        for child in roster.ready(booting)[:1]:
            end = (child.ready_at or 0.0) + booting.config.reload.canary
            yield Due(min(booting.looked_at + CANARY_LOOK, end), Judge(booting, child, end))
    elif len({child.index for child in roster.ready(booting)} & set(range(booting.wanted))) == booting.wanted:
        yield Due(_AT_ONCE, Promote())
