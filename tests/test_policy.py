"""policy.decide, in a make-believe machine: rules one by one, then a long random life in which nothing may go wrong."""

import math
import random
from dataclasses import replace

import pytest

from serverd.config import ReloadConfig
from serverd.supervisor import policy
from serverd.supervisor.actions import (
    AskToDrain,
    AskToStop,
    GiveUp,
    Judge,
    KillChild,
    Promote,
    Renew,
    SayClose,
    StartChild,
)
from serverd.supervisor.child_state import Event, IllegalTransition, State
from serverd.supervisor.roster import BootFailure, Child, Departure, Shutdown, Urgency
from tests.support.world import World, configuration


def serving(processes: int = 1, **options: float | bool) -> World:
    """A world whose first generation serves."""
    world = World(configuration(processes, **options))  # type: ignore[arg-type]
    world.all_ready()
    assert world.current().number == 1
    world.done.clear()
    return world


# Start


def test_all_places_are_filled_and_the_generation_serves_when_the_last_is_ready() -> None:
    world = World(configuration(3))
    assert world.states() == {"worker 0 g1": "booting", "worker 1 g1": "booting", "worker 2 g1": "booting"}
    world.becomes_ready(world.child(2), world.child(0))
    assert world.roster.current is None
    world.becomes_ready(world.child(1))
    assert world.current().number == 1
    assert world.deadline() == math.inf, "nothing to wait for"


def test_a_first_generation_that_cannot_boot_ends_the_daemon_with_the_childs_status() -> None:
    world = World(configuration(2))
    world.becomes_ready(world.child(1))
    world.cannot_boot(world.child(0), status=4)
    assert world.actions(AskToDrain)[0].child is world.child(1, state=State.DRAINING)
    world.exits(world.child(1, state=State.DRAINING))
    assert world.quit is None, "one child is still there"
    world.exits(world.child(0, state=State.FAILED), 4)
    assert world.quit == 4


def test_a_child_that_dies_while_it_boots_counts_as_one_that_cannot() -> None:
    world = World()
    assert world.exits(world.child(), -11) is Departure.CANNOT_BOOT
    assert world.quit == 3


def test_a_child_that_does_not_boot_in_time_is_killed() -> None:
    world = World(configuration(boot=5.0))
    assert world.deadline() == 5.0
    world.pass_time(4.9)
    assert world.child().state is State.BOOTING
    world.pass_time(0.1)
    assert "timeouts.boot" in world.actions(KillChild)[0].reason
    world.exits(world.child(), -9)
    assert world.quit == 3


def test_without_a_boot_timeout_a_child_may_take_for_ever() -> None:
    assert World(configuration(boot=0.0)).deadline() == math.inf


def test_a_fork_that_fails_is_tried_again_and_nothing_else_happens() -> None:
    world = serving()
    world.can_fork = False
    world.exits(world.child(), -9)
    world.done.clear()
    while world.now < 1200.0:
        world.pass_time(world.deadline())
    assert 400 <= len(world.actions(StartChild)) <= 600, "the waits double up to less than a second"
    assert len(world.actions(StartChild)) == len(world.done)
    world.can_fork = True
    world.pass_time(1.0)
    assert world.child().state is State.BOOTING


# The canary


def on_trial() -> World:
    """A world whose second generation has a canary, which serves."""
    world = serving(3)
    world.next_config = replace(configuration(3), reload=ReloadConfig(canary=10.0))
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.done.clear()
    world.becomes_ready(world.child(0, generation=2))
    return world


def test_the_first_new_child_serves_alone_beside_the_old_ones() -> None:
    world = on_trial()
    assert len(world.roster.children) == 4
    assert [action.end - world.now for action in world.actions(Judge)] == [10.0]
    assert world.deadline() == policy.CANARY_LOOK
    for _ in range(9):
        world.pass_time(1.0)
    assert len(world.actions(Judge)) == 10
    assert len(world.roster.children) == 4
    world.pass_time(1.0)
    assert len(world.roster.children) == 6, "it has passed: the others boot"
    world.all_ready()
    assert world.current().number == 2


def test_a_canary_that_fails_is_rolled_back() -> None:
    world = on_trial()
    assert world.roster.booting is not None
    world.roster.booting.failure = BootFailure(3, "canary: slow")
    world.settle()
    assert world.actions(GiveUp)
    assert [action.child.generation for action in world.actions(AskToDrain)] == [2]
    assert world.current().number == 1


def test_a_canary_that_dies_is_rolled_back() -> None:
    world = on_trial()
    assert world.exits(world.child(0, generation=2), -11) is Departure.CRASHED
    assert world.actions(GiveUp)
    assert world.current().number == 1
    assert set(world.states()) == {"worker 0 g1", "worker 1 g1", "worker 2 g1"}


def test_the_first_generation_has_no_canary() -> None:
    world = World(replace(configuration(2), reload=ReloadConfig(canary=10.0)))
    world.all_ready()
    assert world.current().number == 1
    assert not world.actions(Judge)


# A lame duck


def test_a_lame_duck_serves_until_its_time_is_over() -> None:
    world = serving(2)
    world.roster.lame_until = world.now + 10.0
    world.settle()
    assert [action.child.index for action in world.actions(SayClose)] == [0, 1]
    assert world.deadline() == 10.0
    world.exits(world.child(0), -9)
    world.pass_time(1.0)
    world.all_ready()
    assert world.states() == {"worker 1 g1": "ready", "worker 0 g1": "ready"}, "it is replaced"
    assert len(world.actions(SayClose)) == 3, "and told as well"
    world.pass_time(8.9)
    assert not world.actions(AskToDrain)
    world.pass_time(0.1)
    assert [action.final for action in world.actions(AskToDrain)] == [True, True]


def test_a_lame_duck_begins_nothing_new() -> None:
    world = serving()
    world.roster.lame_until = world.now + 10.0
    world.roster.ask_reload("a file", newer_code=True)
    world.roster.wear_out(world.child(), "max_rss", world.now)
    world.settle()
    assert [type(action) for action in world.done] == [SayClose]


# Recycling


def test_a_worn_child_serves_until_its_successor_is_ready() -> None:
    world = serving(2)
    old = world.child(1)
    assert world.roster.wear_out(old, "max_requests", world.now)
    assert not world.roster.wear_out(old, "max_rss", world.now), "once"
    world.settle()
    assert [child.state.value for child in world.roster.children] == ["ready", "ready", "booting"]
    new = world.roster.successor(old)
    assert new is not None
    world.becomes_ready(new)
    assert [action.child for action in world.actions(AskToDrain)] == [old]
    assert not world.actions(AskToDrain)[0].final
    world.exits(old)
    assert world.roster.restarts == {"max_requests": 1}
    assert world.states() == {"worker 0 g1": "ready", "worker 1 g1": "ready"}
    assert new.replaces is None
    assert world.deadline() == math.inf


def test_worn_children_are_replaced_one_after_the_other() -> None:
    world = serving(3)
    for index in (2, 0, 1):
        world.roster.wear_out(world.child(index), "max_lifetime", world.now + index)
    world.pass_time(5.0)
    order: list[Child] = []
    while len(order) < 3:
        (renewal,) = [action for action in world.actions(Renew) if action.child not in order]
        order.append(renewal.child)
        new = world.roster.successor(renewal.child)
        assert new is not None
        assert len(world.roster.children) == 4
        world.becomes_ready(new)
        assert len(world.actions(Renew)) == len(order), "the old one has to be gone first"
        world.exits(renewal.child)
    assert [child.index for child in order] == [0, 1, 2]


def test_a_successor_that_cannot_boot_leaves_the_old_child_serving() -> None:
    world = serving()
    old = world.child()
    world.roster.wear_out(old, "max_rss", world.now)
    world.settle()
    new = world.roster.successor(old)
    assert new is not None
    world.cannot_boot(new)
    world.exits(new, 4)
    assert world.states() == {"worker 0 g1": "ready"}
    assert not world.actions(AskToDrain)
    world.pass_time(world.deadline())
    assert world.roster.successor(old) is not None, "tried again after the back-off"


def test_a_worn_child_that_dies_before_its_successor_is_ready_is_not_replaced_twice() -> None:
    world = serving()
    old = world.child()
    world.roster.wear_out(old, "max_rss", world.now)
    world.settle()
    assert world.exits(old, -9) is Departure.CRASHED
    world.pass_time(60.0 - 1)
    assert world.states() == {"worker 0 g1": "booting"}
    world.all_ready()
    assert world.roster.restarts == {"crash": 1}


def test_nothing_is_recycled_while_a_generation_boots() -> None:
    world = serving()
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.roster.wear_out(world.child(generation=1), "max_requests", world.now)
    world.settle()
    assert not world.actions(Renew)
    world.cannot_boot(world.child(generation=2))
    assert len(world.actions(Renew)) == 1, "the reload has failed: now it is due"


def test_a_reload_takes_the_place_of_a_recycling() -> None:
    world = serving()
    old = world.child()
    world.roster.wear_out(old, "max_requests", world.now)
    world.settle()
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.becomes_ready(world.child(generation=2))
    assert {child.generation for child in world.roster.children if child.leaving} == {1}
    assert len([child for child in world.roster.children if child.leaving]) == 2


def test_without_memory_for_two_it_is_tried_again_later() -> None:
    world = serving()
    world.memory = False
    world.roster.wear_out(world.child(), "max_rss", world.now)
    world.settle()
    assert world.deadline() == policy.RENEW_AGAIN
    world.memory = True
    world.pass_time(policy.RENEW_AGAIN)
    assert world.states() == {"worker 0 g1": "booting"}
    assert len(world.roster.children) == 2


def test_what_fits() -> None:
    assert policy.fits(None, 10**12)
    assert policy.fits(100, 100)
    assert not policy.fits(99, 100)


# Crashes


def test_a_crashed_child_is_replaced_after_a_back_off_that_doubles() -> None:
    world = serving()
    waits = []
    for _ in range(12):
        assert world.exits(world.child(), -11) is Departure.CRASHED
        waits.append(round(world.deadline(), 3))
        world.pass_time(world.deadline())
        world.all_ready()
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_a_healthy_minute_forgives() -> None:
    world = serving()
    for _ in range(5):
        world.exits(world.child(), -11)
        world.pass_time(world.deadline())
        world.all_ready()
    world.pass_time(61.0)
    world.exits(world.child(), -11)
    assert world.deadline() == pytest.approx(0.1)


def test_only_the_place_of_the_crash_waits() -> None:
    world = serving(2)
    world.exits(world.child(0), 1)
    assert world.states() == {"worker 1 g1": "ready"}
    world.pass_time(0.1)
    assert world.states() == {"worker 1 g1": "ready", "worker 0 g1": "booting"}


def test_a_replacement_that_cannot_boot_is_tried_again_and_the_daemon_lives() -> None:
    world = serving(2)
    world.exits(world.child(0), 1)
    world.pass_time(0.1)
    world.cannot_boot(world.child(0))
    assert world.exits(world.child(0), 4) is Departure.CANNOT_BOOT
    assert world.quit is None
    assert not world.actions(GiveUp)
    assert world.deadline() == pytest.approx(0.2)


def test_a_child_that_leaves_by_itself_is_replaced_at_once() -> None:
    world = serving()
    leaver = world.child()
    leaver.apply(Event.DRAINED, world.now)
    world.settle()
    assert [child.state.value for child in world.roster.children] == ["draining", "booting"]
    assert world.exits(leaver, 0) is Departure.LEFT


def test_a_child_without_a_channel_is_killed_after_a_moment() -> None:
    world = serving()
    world.child().lost_at = world.now
    assert world.settle() - world.now == policy.LOST_GRACE
    world.pass_time(policy.LOST_GRACE)
    assert world.child().state is State.KILLED


# Reload


def test_the_old_generation_drains_only_when_the_new_one_is_complete() -> None:
    world = serving(2)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.becomes_ready(world.child(0, 2))
    assert world.child(0, 1).state is world.child(1, 1).state is State.READY
    world.becomes_ready(world.child(1, 2))
    assert [type(action) for action in world.done[-3:]] == [Promote, AskToDrain, AskToDrain]
    assert not any(action.final or action.close_idle for action in world.actions(AskToDrain))
    assert world.current().number == 2
    for index in (0, 1):
        world.exits(world.child(index, 1, State.DRAINING))
    assert world.states() == {"worker 0 g2": "ready", "worker 1 g2": "ready"}


def test_idle_connections_are_closed_by_a_reload_of_a_developer() -> None:
    world = serving(reload=True)
    world.next_config = configuration(reload=True)
    world.roster.ask_reload("app.py changed", newer_code=True)
    world.settle()
    world.all_ready()
    assert [action.close_idle for action in world.actions(AskToDrain)] == [True]


def test_a_reload_that_fails_leaves_the_old_generation_alone() -> None:
    world = serving(2)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.becomes_ready(world.child(0, 2))
    world.cannot_boot(world.child(1, 2))
    assert len(world.actions(GiveUp)) == 1
    assert {action.child.generation for action in world.actions(AskToDrain)} == {2}
    assert world.child(0, 1).state is world.child(1, 1).state is State.READY
    world.exits(world.child(1, 2), 4)
    world.exits(world.child(0, 2, State.DRAINING), 0)
    assert world.current().number == 1
    assert world.deadline() == math.inf, "nobody tries again by himself"


def test_requests_that_come_while_one_runs_are_one_more_run() -> None:
    world = serving()
    for _ in range(3):
        world.roster.ask_reload("SIGHUP", newer_code=False)
        world.settle()
    assert world.states() == {"worker 0 g1": "ready", "worker 0 g2": "booting"}
    world.becomes_ready(world.child(0, 2))
    assert world.child(0, 3).state is State.BOOTING
    world.becomes_ready(world.child(0, 3))
    assert world.roster.request is None
    assert world.current().number == 3


def test_newer_code_supersedes_a_generation_that_boots() -> None:
    world = serving()
    world.roster.ask_reload("app.py changed", newer_code=True)
    world.settle()
    world.roster.ask_reload("app.py changed", newer_code=True)
    world.settle()
    assert world.states() == {"worker 0 g1": "ready", "worker 0 g2": "draining", "worker 0 g3": "booting"}
    world.pass_time(policy.ABANDON_GRACE)
    assert world.child(0, 2, State.KILLED), "it has no request to finish"
    world.becomes_ready(world.child(0, 3))
    assert world.current().number == 3


def test_newer_code_is_preferred_to_a_failure_even_at_the_start() -> None:
    world = World()
    world.roster.ask_reload("app.py changed", newer_code=True)
    world.cannot_boot(world.child())
    world.all_ready()
    assert world.current().number == 2
    assert not world.actions(GiveUp)


def test_an_application_that_changes_itself_while_it_boots_gets_to_serve() -> None:
    world = serving()
    for _ in range(20):
        world.roster.ask_reload("generated.py changed", newer_code=True)
        world.settle()
    assert world.roster.last_number == 2 + policy.MOST_SUPERSEDED
    world.becomes_ready(world.child(0, world.roster.last_number))
    assert world.current().number == 2 + policy.MOST_SUPERSEDED


def test_a_crash_during_a_reload_is_replaced_in_its_own_generation() -> None:
    world = serving(2)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.exits(world.child(0, 1), -11)
    world.pass_time(0.1)
    assert world.child(0, 1).state is State.BOOTING
    world.becomes_ready(world.child(0, 2))
    world.exits(world.child(0, 2), -11)
    assert world.roster.booting is not None
    assert world.roster.booting.failure is None, "it had booted; that it crashed is another matter"


def test_a_smaller_configuration_shrinks_only_after_the_roll() -> None:
    world = serving(3)
    world.next_config = configuration(1)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    assert len(world.roster.ready(world.current())) == 3
    world.all_ready()
    assert [child.name for child in world.roster.of(world.current())] == ["worker 0 g2"]


# Scale


def test_one_more_and_one_less_but_never_none() -> None:
    world = serving()
    assert world.roster.scale(+1) == 2
    world.settle()
    world.all_ready()
    assert world.states() == {"worker 0 g1": "ready", "worker 1 g1": "ready"}
    assert world.roster.scale(-1) == 1
    world.settle()
    assert world.states() == {"worker 0 g1": "ready", "worker 1 g1": "draining"}
    assert world.roster.scale(-1) == 1


def test_a_server_that_rests_is_not_woken_by_one_child_less() -> None:
    world = serving(2)
    world.current().wanted = 0
    world.settle()
    assert set(world.states().values()) == {"draining"}
    assert world.roster.scale(-1) == 0
    assert world.roster.scale(+1) == 1


def test_a_place_that_is_wanted_again_does_not_wait_for_the_one_that_leaves() -> None:
    world = serving(2)
    world.roster.scale(-1)
    world.settle()
    world.roster.scale(+1)
    world.settle()
    assert sorted(child.state.value for child in world.roster.children if child.index == 1) == [
        "booting",
        "draining",
    ]


# Stop


@pytest.mark.parametrize("graceful", [30.0, 0.0])
def test_graceful_then_cut_off_then_killed(graceful: float) -> None:
    world = serving(graceful=graceful)
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.settle()
    drain = world.actions(AskToDrain)[0]
    assert drain.final
    assert drain.close_idle
    if graceful == 0.0:
        assert (world.deadline(), drain.graceful) == (math.inf, policy.UNLIMITED)
        return
    world.pass_time(graceful + policy.DRAIN_MARGIN - 0.1)
    assert not world.actions(AskToStop)
    world.pass_time(0.1)
    assert world.child(state=State.STOPPING)
    world.pass_time(policy.STOP_GRACE)
    child = world.child(state=State.KILLED)
    assert world.now - 1000.0 == pytest.approx(policy.longest_stop(graceful, Urgency.GRACEFUL))
    assert world.deadline() == math.inf
    world.exits(child, -9)
    assert world.quit == 0


def test_faster_and_faster() -> None:
    world = serving(2)
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.settle()
    world.roster.shutdown = Shutdown(Urgency.FAST, 0)
    world.settle()
    assert set(world.states().values()) == {"stopping"}
    world.roster.shutdown = Shutdown(Urgency.NOW, 0)
    world.settle()
    assert set(world.states().values()) == {"killed"}


def test_a_child_that_drains_for_a_reload_hears_that_all_stop_and_gets_no_longer() -> None:
    world = serving(graceful=30.0)
    world.roster.ask_reload("SIGHUP", newer_code=False)
    world.settle()
    world.next_config = configuration(graceful=30.0)
    world.all_ready()
    old = world.child(0, 1, State.DRAINING)
    patience = old.patience
    world.pass_time(20.0)
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.settle()
    assert [action.final for action in world.actions(AskToDrain) if action.child is old] == [False, True]
    assert old.patience == patience


def test_a_stop_during_the_boot_waits_briefly_and_reports_no_failure() -> None:
    world = World(configuration(boot=60.0))
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.settle()
    assert world.actions(AskToDrain)[0].patience == policy.ABANDON_GRACE
    assert world.exits(world.child(state=State.DRAINING), -15) is Departure.EXPECTED
    assert world.quit == 0


# Health


def test_health_is_that_every_child_serves_or_boots() -> None:
    world = serving(2)
    assert policy.healthy(world.roster)
    world.exits(world.child(0), -11)
    assert not policy.healthy(world.roster), "its place is empty"
    world.pass_time(0.1)
    assert policy.healthy(world.roster), "it boots, with a deadline of its own"
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    assert policy.healthy(world.roster)


# A long life


@pytest.mark.parametrize("seed", range(40))
def test_a_random_life_keeps_the_promises(seed: int) -> None:
    """Whatever happens in whatever order: the policy settles, never spins, never raises, and what serves is not
    taken away before its successor is complete."""
    chance = random.Random(seed)
    world = World(configuration(chance.choice([1, 2, 4]), boot=10.0, graceful=5.0))
    for _ in range(300):
        before = world.current() if world.roster.current else None
        mark = len(world.done)
        _something_happens(world, chance)
        world.settle()
        if before is not None and world.roster.shutdown is None and world.current() is before:
            told = [a.child for a in world.done[mark:] if isinstance(a, AskToDrain)]
            assert not [
                child for child in told if child.generation == before.number and child.index < before.wanted
            ]
        if world.quit is not None:
            assert not world.roster.children
            return
    world.roster.shutdown = Shutdown(Urgency.NOW, 0)
    world.settle()
    for child in list(world.roster.children):
        world.exits(child, -9)
    assert world.quit is not None


def _something_happens(world: World, chance: random.Random) -> None:
    match chance.randrange(9):
        case 0 | 1:
            world.pass_time(chance.choice([0.05, 0.5, 3.0, 20.0]))
        case 2:
            due = world.deadline()
            world.pass_time(due if due != math.inf else 0.0)
        case 3 if chance.random() < 0.4:
            world.roster.ask_reload("change", newer_code=chance.random() < 0.5)
        case 4 if world.roster.current is not None:
            world.roster.scale(chance.choice([-1, 1]))
        case 5:
            world.can_fork = chance.random() < 0.8
        case _ if world.roster.children:
            child = chance.choice(world.roster.children)
            event = chance.choice([Event.BECAME_READY] * 4 + [Event.BOOT_FAILED, Event.DRAINED, Event.EXITED])
            try:
                if event is Event.EXITED:
                    world.exits(child, chance.choice([0, 1, -9]))
                elif event is Event.BOOT_FAILED and world.roster.current is not None:
                    world.cannot_boot(child)
                else:
                    child.apply(event, world.now)
            except IllegalTransition:
                pass
