"""The master's watch over its children: what it does with a child that has lost threads, without a process."""

from __future__ import annotations

import math
from time import monotonic

import pytest

from serverd.config import ServerConfig
from serverd.config.model import TimeoutsConfig, WorkersConfig
from serverd.server.http.events import RequestReceived
from serverd.server.slots import LOOP, MAIN, WORKER, Scores, Slot
from serverd.supervisor import policy
from serverd.supervisor.actions import AskToStop, Renew
from serverd.supervisor.board import Board
from serverd.supervisor.child_state import Event
from serverd.supervisor.facts import History
from serverd.supervisor.roster import Child, Roster
from serverd.supervisor.vigil import Vigil

LIMIT = 30.0
REQUEST = RequestReceived("GET", b"/slow", b"/slow", b"", "1.1", [])


class Daemon:
    """One generation with one ready child of two threads, and the clock."""

    def __init__(self, stuck: float = LIMIT, alive: float = 0.0) -> None:
        config = ServerConfig(
            app="x:y", workers=WorkersConfig(processes=1, threads=2), timeouts=TimeoutsConfig(stuck=stuck)
        )
        self.now = monotonic()
        self.roster, self.board, self.history = Roster(), Board(), History(1, 0.0)
        self.vigil = Vigil(self.roster, self.board, self.history, alive)
        self.roster.begin(config, None, "start", self.now)
        self.child, self.scores = self.start()
        self.main, self.home, *self.workers = (self.thread(role) for role in (MAIN, LOOP, WORKER, WORKER))
        self.child.apply(Event.BECAME_READY, self.now)
        self.roster.promote()

    def start(self) -> tuple[Child, Scores]:
        generation = self.roster.booting or self.roster.current
        assert generation is not None
        child = Child(0, generation.number, self.now, pid=100 + len(self.roster.children))
        child.papers = self.board.papers(generation.config)
        assert child.papers.region is not None
        scores = Scores.open(child.papers.memory, child.papers.region)
        child.apply(Event.SPAWNED, self.now)
        self.roster.children.append(child)
        return child, scores

    def thread(self, role: int) -> Slot:
        slot = self.scores.take()
        slot.enter(role)
        return slot

    def look(self, after: float) -> float:
        """Seconds until the next look, seen from `after` seconds from now."""
        self.scores.tell(self.now + after + 1)
        return self.vigil.tend(self.now + after) - self.now - after


def test_nothing_is_looked_at_without_a_limit() -> None:
    daemon = Daemon(stuck=0.0)
    daemon.workers[0].begin(REQUEST, daemon.now - 1000)
    assert daemon.look(0) == math.inf
    assert not daemon.child.worn


def test_a_lost_thread_has_the_child_replaced_when_its_time_is_over() -> None:
    daemon = Daemon()
    assert daemon.look(0) == pytest.approx(LIMIT)
    daemon.workers[0].begin(REQUEST, daemon.now + 10)
    assert daemon.look(LIMIT) == pytest.approx(10)
    assert not daemon.child.worn
    daemon.look(LIMIT + 10)
    assert str(daemon.child.worn) == "watchdog"
    assert (daemon.child.standing, daemon.history.lost_threads) == (False, 1)
    (action,) = policy.decide(daemon.roster, daemon.now + LIMIT + 10).actions
    assert isinstance(action, Renew)
    assert action.child is daemon.child


def test_a_thread_is_lost_once_and_more_may_follow() -> None:
    daemon = Daemon()
    daemon.workers[0].begin(REQUEST, daemon.now)
    daemon.look(LIMIT)
    daemon.look(LIMIT + 1)
    assert daemon.history.lost_threads == 1
    daemon.workers[1].begin(REQUEST, daemon.now + 5)
    daemon.look(LIMIT + 6)
    assert daemon.history.lost_threads == 2


def test_systemd_hears_nothing_while_a_child_stands_and_nobody_takes_its_place() -> None:
    daemon = Daemon()
    for worker in daemon.workers:
        worker.begin(REQUEST, daemon.now)
    assert policy.healthy(daemon.roster)
    daemon.look(LIMIT)
    assert daemon.child.standing
    assert not policy.healthy(daemon.roster)
    successor, _ = daemon.start()
    successor.replaces = daemon.child
    assert policy.healthy(daemon.roster)


def test_a_main_thread_that_is_late_counts_without_a_limit_when_systemd_wants_to_know() -> None:
    daemon = Daemon(stuck=0.0, alive=15.0)
    daemon.scores.tell(daemon.now + 1)
    assert daemon.vigil.tend(daemon.now) == pytest.approx(daemon.now + 16)
    daemon.vigil.tend(daemon.now + 16)
    assert (daemon.child.worn, daemon.child.standing) == ("watchdog", True)


def test_requests_may_last_where_only_systemd_wants_to_know() -> None:
    daemon = Daemon(stuck=0.0, alive=15.0)
    for worker in daemon.workers:
        worker.begin(REQUEST, daemon.now - 1000)
    daemon.look(0)
    assert not daemon.child.worn


@pytest.mark.parametrize("others", [False, True])
def test_a_sick_child_that_drains_is_waited_for_as_long_as_others_are_served(others: bool) -> None:
    daemon = Daemon()
    daemon.workers[0].begin(REQUEST, daemon.now)
    daemon.look(LIMIT)
    if others:
        daemon.workers[1].begin(REQUEST, daemon.now + LIMIT)
    daemon.roster.drain_sent(daemon.child, daemon.now + LIMIT, final=False, patience=36.0)
    daemon.look(LIMIT + 1)
    stopped = [
        action
        for action in policy.decide(daemon.roster, daemon.now + LIMIT + 1).actions
        if isinstance(action, AskToStop)
    ]
    assert len(stopped) == (0 if others else 1)


def test_a_child_that_drains_for_another_reason_has_its_time() -> None:
    daemon = Daemon()
    daemon.roster.drain_sent(daemon.child, daemon.now, final=False, patience=36.0)
    daemon.workers[0].begin(REQUEST, daemon.now)
    assert daemon.look(LIMIT + 1) == math.inf
    assert daemon.child.patience == daemon.now + 36.0


def test_a_child_whose_scoreboard_cannot_be_read_is_left_alone() -> None:
    daemon = Daemon()
    daemon.child.papers = daemon.child.papers._replace(region=None)
    assert daemon.look(0) == math.inf
