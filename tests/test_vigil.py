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
        self.asked = math.inf  # when the vigil wants to be called
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
        """Seconds until the next look, seen from `after` seconds from now; each look before that is taken too."""
        while self.asked < self.now + after:
            self.thaw(self.asked - self.now)
        return self.thaw(after)

    def thaw(self, after: float) -> float:
        """The same, with no look in between: nobody could run."""
        self.scores.tell(self.now + after + 1)
        self.asked = self.vigil.tend(self.now + after)
        return self.asked - self.now - after


def test_nothing_is_looked_at_without_a_limit() -> None:
    daemon = Daemon(stuck=0.0)
    daemon.workers[0].begin(REQUEST, daemon.now - 1000)
    assert daemon.look(0) == math.inf
    assert not daemon.child.worn


def test_a_lost_thread_has_the_child_replaced_when_its_time_is_over() -> None:
    daemon = Daemon()
    assert daemon.look(0) == pytest.approx(LIMIT / 4), "no sleep in which a pause of the limit is not noticed"
    daemon.workers[0].begin(REQUEST, daemon.now + 10)
    assert daemon.look(LIMIT) == pytest.approx(LIMIT / 4)
    assert daemon.look(LIMIT + 7.5) == pytest.approx(2.5)
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
    asked = daemon.now
    for _ in range(5):
        assert not daemon.child.worn
        asked = daemon.vigil.tend(asked)
    assert asked == pytest.approx(daemon.now + 16)
    daemon.vigil.tend(asked)
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

    def stopped(after: float) -> int:
        daemon.look(after)
        actions = policy.decide(daemon.roster, daemon.now + after).actions
        return sum(isinstance(action, AskToStop) for action in actions)

    assert stopped(LIMIT + 0.5) == 0, "it is found twice first"
    assert stopped(LIMIT + 0.6) == 0, "and not at once"
    assert stopped(LIMIT + 1.5) == (0 if others else 1)


@pytest.mark.parametrize("alive", [0.0, LIMIT])
def test_a_pause_of_the_whole_service_is_nobodys_fault(
    alive: float, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(stuck=0.0 if alive else LIMIT, alive=alive)
    daemon.look(0)
    daemon.workers[0].begin(REQUEST, daemon.now + 1)
    daemon.look(5)
    after = 5 + 2 * LIMIT
    daemon.asked = daemon.vigil.tend(daemon.now + after)  # the main thread could not say that it lives
    assert (daemon.child.worn, daemon.child.standing) == ("", False)
    assert "could not run for" in caplog.text
    daemon.look(after + LIMIT - 1)
    assert not daemon.child.worn, "a fresh limit"
    daemon.look(after + LIMIT)
    assert daemon.child.worn == ("" if alive else "watchdog")


def test_a_pause_while_a_sick_child_drains_cuts_off_nobody() -> None:
    daemon = Daemon()
    daemon.workers[0].begin(REQUEST, daemon.now)
    daemon.look(LIMIT)
    daemon.roster.drain_sent(daemon.child, daemon.now + LIMIT, final=False, patience=360.0)
    daemon.look(LIMIT + 0.5)
    daemon.thaw(LIMIT + 20)
    daemon.look(2 * LIMIT + 19)
    assert daemon.child.patience == daemon.now + LIMIT + 360
    daemon.look(2 * LIMIT + 22)
    assert daemon.child.patience < daemon.now + 2 * LIMIT + 22.1


def test_a_busy_machine_is_no_pause() -> None:
    daemon = Daemon(stuck=4.0)
    daemon.workers[0].begin(REQUEST, daemon.now)
    for second in range(3):
        daemon.thaw(second * 1.9)
    daemon.thaw(4.1)
    assert str(daemon.child.worn) == "watchdog"


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
