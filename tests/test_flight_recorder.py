"""What is said of a child that has died: lines from views that nobody has written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serverd.server.scoreboard import EMPTY, SlotView, Totals, Waiting
from serverd.supervisor.flight_recorder import MOST_REQUESTS, report
from serverd.supervisor.reports import crash_hint

NOW = 1000.0


def slot(place: int, since: float | None, path: str = "/slow", **more: object) -> SlotView:
    made = SlotView(
        place=place,
        role="worker",
        state="idle" if since is None else "running",
        method="GET",
        path=path,
        since=since,
        blocked=None,
        native_id=100 + place,
        ident=1,
        waiting=0,
        websockets=0,
        event_streams=0,
        totals=Totals(),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_an_idle_child_has_nothing_to_tell() -> None:
    assert report(replace(EMPTY, slots=(slot(1, None),)), "", NOW) == []
    assert report(None, "", NOW) == []


def test_what_it_held_and_what_waited_and_its_memory() -> None:
    view = replace(
        EMPTY,
        resident=52 << 20,
        slots=(
            slot(0, None, role="main"),
            slot(1, NOW - 0.2, "/home", role="loop", waiting=1, websockets=1),
            slot(2, NOW - 3.04, "/report"),
            slot(3, NOW - 1.0, "/upload", method="POST", state="reading"),
            slot(4, None),
        ),
        waiting=(Waiting("request", "GET", "/poll", NOW - 9), Waiting("websocket", "GET", "/ws", NOW - 60)),
    )
    held, memory = report(view, "", NOW)
    assert held == (
        "held 5 requests: GET /home (0.2 s, the home loop); GET /report (3.0 s, thread 102); "
        "POST /upload (1.0 s, thread 103, waiting for its client's body); "
        "GET /poll (9.0 s, waiting in an event loop); GET /ws (websocket, 60.0 s, waiting in an event loop)"
    )
    assert memory == "had 52 MiB of memory when it was last looked at"


def test_many_requests_are_counted_and_some_are_named() -> None:
    waiting = tuple(Waiting("request", "GET", f"/{number}", NOW) for number in range(64))
    (line,) = report(replace(EMPTY, slots=(slot(1, None, waiting=500),), waiting=waiting), "", NOW)
    assert line.startswith("held 500 requests: GET /0 ")
    assert line.endswith(f"GET /{MOST_REQUESTS - 1} (0.0 s, waiting in an event loop); and more")


def test_last_words_are_given_as_they_are() -> None:
    assert report(None, "\nFatal Python error: Aborted\n\n", NOW) == [
        "left these last words:\nFatal Python error: Aborted"
    ]


@pytest.mark.parametrize(
    ("kills", "hint"),
    [
        (None, " (by hand, or by the kernel for want of memory: see dmesg)"),
        (0, " (by hand, as the kernel says that it has killed nothing here for want of memory)"),
        (1, " (by the kernel, for want of memory: oom_kill has grown by 1)"),
    ],
)
def test_who_has_killed_it(kills: int | None, hint: str) -> None:
    assert crash_hint(9, kills) == hint
    assert crash_hint(11, kills) == ""
