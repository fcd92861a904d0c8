"""When a thread is lost: the decision, from views of a scoreboard that nobody has written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from serverd.server.scoreboard import EMPTY, ChildView, SlotView, Totals
from serverd.supervisor.watchdog import examine, nothing_else_left, words

NOW = 1000.0
LIMIT = 30.0


def slot(place: int, *, role: str = "worker", since: float | None = None, **more: object) -> SlotView:
    free = SlotView(
        place=place,
        role=role,
        state="idle" if since is None else "running",
        method="GET",
        path="/slow",
        since=since,
        blocked=None,
        native_id=100 + place,
        ident=1,
        waiting=0,
        websockets=0,
        event_streams=0,
        totals=Totals(),
    )
    return replace(free, **more)  # type: ignore[arg-type]


def child(*slots: SlotView, due: float | None = NOW + 1) -> ChildView:
    return replace(EMPTY, slots=slots, due=due)


def test_a_child_that_is_well_is_looked_at_again_when_a_request_that_begins_now_would_be_too_old() -> None:
    finding = examine(child(slot(0, role="main"), slot(1), slot(2)), LIMIT, LIMIT, NOW)
    assert (finding.stuck, finding.frozen, finding.standing, finding.sick) == ((), 0.0, False, False)
    assert finding.again == NOW + LIMIT


def test_the_oldest_request_says_when_to_look_again() -> None:
    view = child(slot(1, since=NOW - 20), slot(2, since=NOW - 29), slot(3))
    finding = examine(view, LIMIT, LIMIT, NOW)
    assert not finding.sick
    assert finding.again == pytest.approx(NOW + 1)
    assert examine(view, LIMIT, LIMIT, finding.again).stuck == (view.slots[1],)


@pytest.mark.parametrize(
    ("field", "words_of_it"),
    [
        ("since", "thread 102 is held by GET /slow for 30.0 s"),
        ("blocked", "thread 102 stands still for 30.0 s"),
    ],
)
def test_a_thread_is_stuck_when_its_time_is_over(field: str, words_of_it: str) -> None:
    view = child(slot(1), slot(2, **{field: NOW - LIMIT}))  # type: ignore[arg-type]
    finding = examine(view, LIMIT, LIMIT, NOW)
    assert finding.stuck == (view.slots[1],)
    assert finding.sick
    assert not finding.standing
    assert words_of_it in words(finding, LIMIT, NOW)[0]


@pytest.mark.parametrize("state", ["reading", "writing"])
def test_a_thread_that_waits_for_its_client_is_not_lost(state: str) -> None:
    assert not examine(child(slot(1, since=NOW - 100, state=state)), LIMIT, LIMIT, NOW).sick


def test_a_child_stands_when_none_of_its_workers_gets_on() -> None:
    held = [slot(place, since=NOW - 31) for place in (2, 3)]
    home = slot(1, role="loop")
    assert examine(child(home, *held), LIMIT, LIMIT, NOW).standing
    assert not examine(child(home, *held, slot(4)), LIMIT, LIMIT, NOW).standing


def test_threads_that_have_ended_do_not_count() -> None:
    gone = slot(2, native_id=0, since=NOW - 100)
    assert not examine(child(gone), LIMIT, LIMIT, NOW).sick
    assert examine(child(gone, slot(3, since=NOW - 31)), LIMIT, LIMIT, NOW).standing


def test_a_home_loop_that_stands_still_is_a_lost_thread_and_in_mode_async_the_whole_child() -> None:
    home = slot(1, role="loop", blocked=NOW - 31, waiting=3)
    finding = examine(child(home, slot(2)), LIMIT, LIMIT, NOW)
    assert (finding.sick, finding.standing) == (True, False)
    assert "its home loop stands still for 31.0 s" in words(finding, LIMIT, NOW)[0]
    assert examine(child(slot(0, role="main"), home), LIMIT, LIMIT, NOW).standing


def test_a_main_thread_that_does_not_look_up() -> None:
    well = examine(child(slot(1), due=NOW - 29), LIMIT, LIMIT, NOW)
    assert not well.sick
    assert well.again == pytest.approx(NOW + 1)
    finding = examine(child(slot(1), due=NOW - 30), LIMIT, LIMIT, NOW)
    assert (finding.sick, finding.standing) == (True, True)
    assert words(finding, LIMIT, NOW) == ["its main thread has not looked up for 30.0 s"]


def test_one_that_still_boots_has_promised_nothing() -> None:
    assert not examine(child(slot(1), due=None), LIMIT, LIMIT, NOW).sick


def test_without_limits_nobody_looks() -> None:
    finding = examine(child(slot(1, since=1.0), due=1.0), 0.0, 0.0, NOW)
    assert (finding.sick, finding.again) == (False, math.inf)


def test_requests_may_last_where_only_the_main_thread_is_looked_at() -> None:
    finding = examine(child(slot(1, since=NOW - 900)), 0.0, 15.0, NOW)
    assert not finding.sick
    assert finding.again == NOW + 16


def test_what_a_drain_need_not_wait_for() -> None:
    lost = slot(2, since=NOW - 31)
    assert nothing_else_left(child(slot(0, role="main"), slot(1), lost), [lost])
    assert not nothing_else_left(child(lost, slot(3, since=NOW - 1)), [lost])
    assert not nothing_else_left(child(lost, slot(3, waiting=1)), [lost])
    assert not nothing_else_left(child(slot(1)), [])


def test_what_was_before_a_pause_does_not_count() -> None:
    view = child(slot(1, since=NOW - 90), slot(2, blocked=NOW - 90, waiting=1), due=NOW - 80)
    finding = examine(view, LIMIT, LIMIT, NOW, thaw=NOW - 1)
    assert (finding.sick, finding.standing) == (False, False)
    assert finding.again == pytest.approx(NOW - 1 + LIMIT)
    finding = examine(view, LIMIT, LIMIT, NOW - 1 + LIMIT, thaw=NOW - 1)
    assert len(finding.stuck) == 2
    assert finding.frozen == pytest.approx(LIMIT)
