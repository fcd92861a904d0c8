"""The board: the master's facts are read whole, and totals never go backwards when children come and go."""

from __future__ import annotations

import fcntl
import os
import threading
from typing import Any

import pytest

from serverd.config import ServerConfig
from serverd.config.compound import ThreadRange
from serverd.config.model import WorkersConfig
from serverd.server.arena import SIZE
from serverd.server.facts import MOST_PAGE, read_board, read_counts
from serverd.server.scoreboard import Arena, Papers
from serverd.server.slots import Scores
from serverd.supervisor import facts
from serverd.supervisor.board import Board, slots_for
from serverd.supervisor.child_state import Event
from serverd.supervisor.roster import Child, Roster

CONFIG = ServerConfig(app="x:y")


def arena_of(board: Board) -> Arena:
    assert board.arena is not None
    return board.arena


def entry(name: str, papers: Papers) -> dict[str, Any]:
    assert papers.region is not None
    return {"name": name, "offset": papers.region.offset, "slots": papers.region.slots}


def page(*children: dict[str, Any]) -> dict[str, Any]:
    return {"v": 1, "children": list(children)}


def test_nothing_is_there_before_the_master_has_written() -> None:
    board = Board()
    assert read_board(arena_of(board)) is None
    assert read_counts(arena_of(board)) is None


def test_what_is_published_is_read() -> None:
    board = Board()
    board.publish(page() | {"wanted": 2})
    seen = read_board(arena_of(board))
    assert seen is not None
    assert seen["wanted"] == 2


def test_the_same_facts_are_written_once() -> None:
    board = Board()
    board.publish(page())
    before = arena_of(board).read(0, 64)
    board.publish(page())
    assert arena_of(board).read(0, 64) == before


def test_what_a_child_has_counted_stays_when_it_is_gone() -> None:
    board = Board()
    papers = board.papers(CONFIG)
    assert papers.region is not None
    Scores.open(papers.memory, papers.region).take().end(200, 7, 0.1)
    board.publish(page(entry("worker 0 g1", papers)))
    counts = read_counts(arena_of(board))
    assert counts is not None
    assert (counts.totals.requests, list(counts.views)) == (1, [papers.region.offset])
    view = board.fold(papers)
    assert view is not None
    assert view.totals.requests == 1
    board.publish(page())
    counts = read_counts(arena_of(board))
    assert counts is not None
    assert (counts.totals.requests, counts.totals.sent, counts.views) == (1, 7, {})
    assert board.papers(CONFIG).region == papers.region  # it was free again


def test_a_region_is_not_given_away_while_the_page_names_it() -> None:
    board = Board()
    papers = board.papers(CONFIG)
    board.publish(page(entry("worker 0 g1", papers)))
    board.fold(papers)
    assert board.papers(CONFIG).region != papers.region


def test_totals_never_go_backwards_for_a_reader_beside_a_master_that_replaces_children() -> None:
    board = Board()
    arena = arena_of(board)
    board.publish(page())
    over = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not over.is_set():
            counts = read_counts(arena)
            assert counts is not None
            seen.append(counts.totals.requests)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(150):
        papers = board.papers(CONFIG)
        assert papers.region is not None
        slot = Scores.open(papers.memory, papers.region).take()
        board.publish(page(entry(f"worker 0 g{number}", papers)))
        for _ in range(10):
            slot.end(200, 1, 0.1)
        board.fold(papers)
        board.publish(page())
    over.set()
    reader.join()
    assert seen == sorted(seen)
    assert board.totals.requests == 1500


def test_a_page_that_is_too_large_leaves_the_children_out() -> None:
    board = Board()
    board.publish(page(*({"name": "x" * 1000} for _ in range(MOST_PAGE // 1000))))
    seen = read_board(arena_of(board))
    assert seen is not None
    assert seen["children"] == []


def test_half_a_page_is_no_page() -> None:
    board = Board()
    board.publish(page())
    arena_of(board).write(40, b"#")
    assert read_board(arena_of(board)) is None


def test_a_machine_without_memory_for_it_serves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", refuse)
    board = Board()
    assert board.papers(CONFIG) == Papers()
    board.publish(page())
    assert board.fold(Papers()) is None


def test_who_writes_on_the_memory_cannot_change_its_size() -> None:
    """A child holds it writable while it imports the application; who has mapped what is cut off dies by SIGBUS."""
    board = Board()
    papers = board.papers(CONFIG)
    for size in (0, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(papers.memory, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(papers.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert board.fold(papers) is not None


def test_a_region_that_cannot_be_read_whole_is_not_seen() -> None:
    board = Board()
    papers = board.papers(CONFIG)
    os.close(arena_of(board).fd)
    short = os.memfd_create("short")
    os.dup2(short, arena_of(board).fd)
    os.close(short)
    assert board.look(papers.region) is None


def test_who_only_reads_cannot_write() -> None:
    board = Board()
    board.publish(page())
    with arena_of(board).for_a_reader() as fd:
        assert read_board(Arena(fd)) is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)


@pytest.mark.parametrize(
    ("workers", "slots"),
    [
        (WorkersConfig(threads=4), 38),
        (WorkersConfig(threads=ThreadRange(4, 64)), 98),
        (WorkersConfig(mode="async"), 2),
    ],
)
def test_how_many_slots_a_child_gets(workers: WorkersConfig, slots: int) -> None:
    assert slots_for(ServerConfig(app="x:y", workers=workers)) == slots


def test_the_facts_of_a_master() -> None:
    roster, history = Roster(), facts.History(77, 1000.0)

    def gather() -> dict[str, Any]:
        return facts.gather(roster, CONFIG, history, ["http://127.0.0.1:8000"], (2, 1, (False, "no", 5.0)))

    seen = gather()
    assert (seen["v"], seen["pid"], seen["state"], seen["generation"]) == (1, 77, "booting", None)
    assert seen["last_reload"] == {"ok": False, "reason": "no", "at": 5.0}
    roster.begin(CONFIG, None, "start", 1.0)
    child = Child(0, 1, 1.0, pid=9)
    child.apply(Event.SPAWNED, 2.0)
    child.apply(Event.BECAME_READY, 3.0)
    roster.children.append(child)
    roster.promote()
    seen = gather()
    assert (seen["state"], seen["generation"]) == ("serving", 1)
    assert seen["children"][0] | {"offset": 0} == seen["children"][0]
    assert (seen["children"][0]["name"], seen["children"][0]["state"]) == ("worker 0 g1", "ready")
    roster.begin(CONFIG, None, "HUP", 4.0)
    assert gather()["state"] == "reloading"
    roster.restarts["watchdog"] += 1
    assert gather()["restarts"]["watchdog"] == 1
    assert gather() == gather()
