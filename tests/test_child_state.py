"""Every cell of the table in child_state.py: what may follow, and that everything else raises."""

from itertools import product

import pytest

from serverd.supervisor.child_state import _TABLE, Event, IllegalTransition, State, next_state
from serverd.supervisor.roster import Child

# Written a second time, by hand and in another form, so that a slip in the table is seen: state -> event -> next.
EXPECTED = """
new       spawned       booting
new       spawn failed  dead
booting   became ready  ready
booting   boot failed   failed
booting   drained       draining
booting   drain sent    draining
booting   stop sent     stopping
booting   kill sent     killed
booting   exited        dead
ready     drained       draining
ready     drain sent    draining
ready     stop sent     stopping
ready     kill sent     killed
ready     exited        dead
failed    drained       failed
failed    stop sent     stopping
failed    kill sent     killed
failed    exited        dead
draining  became ready  draining
draining  boot failed   draining
draining  drained       draining
draining  drain sent    draining
draining  stop sent     stopping
draining  kill sent     killed
draining  exited        dead
stopping  became ready  stopping
stopping  boot failed   stopping
stopping  drained       stopping
stopping  kill sent     killed
stopping  exited        dead
killed    became ready  killed
killed    boot failed   killed
killed    drained       killed
killed    exited        dead
"""
LEGAL = {
    (State(words[0].strip()), Event(words[1].strip())): State(words[2].strip())
    for line in EXPECTED.strip().splitlines()
    if (words := [part for part in line.split("  ") if part.strip()])
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_cell(state: State, event: Event) -> None:
    if (state, event) in LEGAL:
        assert next_state(state, event) is LEGAL[state, event]
        return
    with pytest.raises(IllegalTransition) as caught:
        next_state(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert state.value in str(caught.value)
    assert event.value in str(caught.value)


def test_every_state_has_a_row_and_every_way_ends() -> None:
    assert set(_TABLE) == set(State)
    for state in set(State) - {State.NEW, State.DEAD}:
        assert next_state(state, Event.EXITED) is State.DEAD
    assert not _TABLE[State.DEAD]


def test_an_illegal_event_changes_nothing() -> None:
    child = Child(0, 1, 5.0)
    with pytest.raises(IllegalTransition):
        child.apply(Event.BECAME_READY, 9.0)
    assert (child.state, child.since, child.ready_at) == (State.NEW, 5.0, None)


def test_a_late_word_keeps_the_state_and_its_time() -> None:
    child = Child(0, 1, 0.0)
    child.apply(Event.SPAWNED, 1.0)
    child.apply(Event.DRAIN_SENT, 2.0)
    child.apply(Event.BECAME_READY, 3.0)
    assert (child.state, child.since, child.ready_at) == (State.DRAINING, 2.0, None)
    assert child.told
    assert child.leaving
