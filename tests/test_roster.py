"""Bookkeeping: what the exit of a child means, how failures are counted, how wishes for a reload are kept."""

import pytest

from serverd.server.channel import BootFailed
from serverd.supervisor.child_state import Event, IllegalTransition, State
from serverd.supervisor.roster import EXIT_GRACE, Child, Departure, Roster
from tests.support.world import configuration


def roster_with(state: State = State.READY) -> tuple[Roster, Child]:
    """A roster with one generation and one child that came to `state`."""
    roster = Roster()
    roster.begin(configuration(), None, "start", 0.0)
    child = Child(0, 1, 0.0)
    child.apply(Event.SPAWNED, 1.0)
    roster.children.append(child)
    if state is State.READY:
        child.apply(Event.BECAME_READY, 2.0)
        roster.promote()
    return roster, child


def test_a_child_that_serves_and_is_gone_has_crashed() -> None:
    roster, child = roster_with()
    assert roster.exited(child, 0, "exited with status 0", 10.0) is Departure.CRASHED
    assert roster.children == []
    assert roster.current is not None
    slot = roster.current.slot(0)
    assert (slot.failures, slot.failed_at) == (1, 10.0)


def test_a_child_that_was_told_to_go_has_gone_as_expected_whatever_its_status() -> None:
    roster, child = roster_with()
    roster.drain_sent(child, 3.0, final=False, patience=5.0)
    assert roster.exited(child, -9, "was killed", 4.0) is Departure.EXPECTED
    assert roster.current is not None
    assert not roster.current.slots


def test_a_child_that_died_at_boot_is_why_its_generation_fails() -> None:
    roster, child = roster_with(State.BOOTING)
    assert roster.exited(child, -11, "worker 0 g1 was killed by SIGSEGV", 2.0) is Departure.CANNOT_BOOT
    assert roster.booting is not None
    assert roster.booting.failure is not None
    assert (roster.booting.failure.status, roster.booting.failure.error) == (
        3,
        "worker 0 g1 was killed by SIGSEGV",
    )


def test_what_the_child_said_counts_more_than_how_it_ended_and_counts_once() -> None:
    roster, child = roster_with(State.BOOTING)
    roster.boot_failed(child, BootFailed("import", 4, "no module", "Traceback"), 2.0)
    assert roster.exited(child, -6, "was killed by SIGABRT", 3.0) is Departure.CANNOT_BOOT
    assert roster.booting is not None
    assert roster.booting.failure is not None
    assert (roster.booting.failure.status, roster.booting.failure.error) == (4, "no module")
    assert roster.booting.slot(0).failures == 1


def test_a_child_that_was_given_up_cannot_fail_anybody() -> None:
    roster, child = roster_with(State.BOOTING)
    roster.drain_sent(child, 2.0, final=False, patience=5.0)
    roster.boot_failed(child, BootFailed("import", 4, "no module", ""), 3.0)
    assert roster.booting is not None
    assert roster.booting.failure is None
    assert roster.exited(child, 4, "exited", 4.0) is Departure.EXPECTED


def test_an_earlier_deadline_stays() -> None:
    roster, child = roster_with()
    roster.drain_sent(child, 10.0, final=False, patience=5.0)
    roster.drain_sent(child, 12.0, final=True, patience=30.0)
    assert child.patience == 15.0
    assert child.final


def test_the_last_word_of_a_child_without_a_deadline_gives_it_one() -> None:
    _, child = roster_with()
    child.apply(Event.DRAINED, 7.0)
    assert child.patience == 7.0 + EXIT_GRACE


def test_the_dead_do_not_die_twice() -> None:
    roster, child = roster_with()
    roster.exited(child, 0, "", 5.0)
    with pytest.raises(IllegalTransition):
        roster.exited(child, 0, "", 6.0)


def test_wishes_for_a_reload_are_one_and_newer_code_names_it() -> None:
    roster, _ = roster_with()
    roster.ask_reload("SIGHUP", newer_code=False)
    roster.ask_reload("a.py changed", newer_code=True)
    roster.ask_reload("SIGHUP", newer_code=False)
    assert roster.request is not None
    assert roster.request.cause == "a.py changed"
    roster.ask_reload("b.py changed", newer_code=True)
    assert roster.request.cause == "b.py changed"


def test_nobody_who_asked_for_a_reload_is_forgotten() -> None:
    roster, _ = roster_with()
    heard: list[str] = []
    for name, newer in (("first", False), ("a.py changed", True), ("second", False), ("b.py changed", True)):
        asked = () if newer else (lambda ok, line, name=name: heard.append(name),)
        roster.ask_reload(name, newer_code=newer, asked=asked)
    assert roster.request is not None
    assert roster.request.cause == "b.py changed"
    for outcome in roster.request.asked:
        outcome(True, "generation 2 ready")
    assert heard == ["first", "second"]


def test_children_are_scaled_in_every_generation_that_lives() -> None:
    roster, _ = roster_with()
    assert roster.scale_to(5) == 5
    roster.begin(configuration(2), None, "SIGHUP", 5.0)
    assert roster.wanted == 5
    assert roster.scale_to(3) == 3
    assert [generation.wanted for generation in roster.generations()] == [3, 3]


def test_generations_are_numbered_in_order_whatever_becomes_of_them() -> None:
    roster, _ = roster_with()
    roster.begin(configuration(), None, "SIGHUP", 5.0)
    roster.give_up()
    assert roster.begin(configuration(3), None, "SIGHUP", 6.0).number == 3
    assert roster.booting is not None
    assert roster.booting.wanted == 3
    assert [generation.number for generation in roster.generations()] == [1, 3]
    assert roster.generation(2) is None
