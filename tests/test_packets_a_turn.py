"""What other processes say is read a few packets at a time, and their last words whole; nothing of it hurts."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.server.channel import Begin, Channel, Worn
from serverd.supervisor.board import Board
from serverd.supervisor.child_state import Event as ChildEvent
from serverd.supervisor.crew import Crew
from serverd.supervisor.nursery import Nursery
from serverd.supervisor.roster import Child, Roster
from serverd.supervisor.spawn import LAST_PACKETS, PACKETS_A_TURN, Started
from serverd.supervisor.template import Template
from serverd.supervisor.upgrade import Event, State, Successor, Upgrade
from tests.support.world import configuration

MANY = 50


class Family:
    """A master's parts, and a process that lives until it is killed."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.selector = selector
        self.roster = Roster()
        self.roster.begin(configuration(), None, "start", 0.0)
        self.nursery = Nursery(self.roster, selector)
        self.crew = Crew(self.roster, selector, self.nursery, Board(), None)
        self.above, self.below = Channel.pair()
        self.above.sock.setblocking(False)
        self.below.sock.setblocking(False)
        self.pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> int:
        """End the process; its wait status."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        return os.waitpid(self.pid, 0)[1]

    def left(self) -> int:
        """How many packets are unread."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while self.above.sock.recv(1000):
                count += 1
        return count

    def child(self) -> Child:
        child = Child(0, 1, 0.0)
        child.channel = self.above
        self.roster.children.append(child)
        self.crew._started(child, self.pid, self.pidfd)
        child.apply(ChildEvent.BECAME_READY, 1.0)
        self.roster.promote()
        return child


@pytest.fixture
def family() -> Iterator[Family]:
    with selectors.DefaultSelector() as selector:
        made = Family(selector)
        yield made
        made.below.close()
        made.above.close()


def test_a_child_that_never_ends_is_heard_a_little_at_a_time(family: Family) -> None:
    child = family.child()
    for _ in range(MANY):
        assert family.below.send(Worn("max_requests", "x"))
    family.crew._on_message(child)
    assert child.worn == "max_requests"
    assert family.left() == MANY - PACKETS_A_TURN
    family.crew._departed(child, family.end())


def test_the_last_words_of_a_child_are_heard_whole(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    child = family.child()
    for _ in range(MANY):
        family.below.send(Worn("max_requests", "x"))
    family.below.sock.send(b"the last")
    family.crew._departed(child, family.end())
    assert "spoke out of turn" in caplog.text


def test_more_than_the_last_words_fit_into_no_channel(family: Family) -> None:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while family.below.sock.send(b"x"):
            count += 1
    assert PACKETS_A_TURN < count < LAST_PACKETS
    family.end()
    os.close(family.pidfd)


def test_a_child_whose_burial_fails_leaves_no_closed_descriptor_behind(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the master's own end would fail too, with EBADF, or close what has the number now."""
    child = family.child()

    def fail(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(Board, "fold", fail)
        with pytest.raises(RuntimeError):
            family.crew._departed(child, family.end())
    assert child in family.roster.children
    for thing in family.crew.belongings():
        thing.close()


def test_a_template_that_never_ends_is_heard_a_little_at_a_time(family: Family) -> None:
    template = Template(1, 0.0, 0.0)
    template.pid, template.pidfd, template.channel = family.pid, family.pidfd, family.above
    family.roster.templates.append(template)
    for thing in (family.above, family.pidfd):
        family.selector.register(thing, selectors.EVENT_READ)
    heard: list[object] = []
    monkey: Any = family.nursery
    monkey._hear = lambda _, message: heard.append(message)
    for _ in range(MANY):
        assert family.below.send(Begin())
    family.nursery._on_message(template)
    assert len(heard) == PACKETS_A_TURN
    family.nursery._ended(template, family.end())
    assert len(heard) == MANY


NONSENSE = [b"[" * 100_000, b'{"say": ' + b"[" * 100_000, b"\xff", b"5", b'{"say": "more"}']


def test_a_new_master_that_talks_nonsense_without_end_is_survived(
    family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    unused: Any = None
    upgrade = Upgrade(family.roster, family.selector, unused, unused, unused)
    upgrade._new = Successor(Started(family.pid, family.pidfd, family.above), math.inf)
    upgrade._apply(Event.STARTED)
    for thing in (family.above, family.pidfd):
        family.selector.register(thing, selectors.EVENT_READ)
    for packet in NONSENSE:
        family.below.sock.send(packet)
        upgrade._hear()
    assert caplog.text.count("has said nonsense") == len(NONSENSE)
    for _ in range(MANY):
        family.below.sock.send(b"5")
    upgrade._hear()
    assert caplog.text.count("has said nonsense") == len(NONSENSE) + PACKETS_A_TURN
    upgrade.bury(family.pid, family.end())
    assert caplog.text.count("has said nonsense") == len(NONSENSE) + MANY
    assert upgrade.state is State.NONE
