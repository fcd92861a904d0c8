"""Hot upgrade, what is pure in it: the table, when one may begin, how long it may take, and what is passed on."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from serverd.server.channel import Channel
from serverd.supervisor.actions import AskToDrain, Quit
from serverd.supervisor.child_state import State as ChildState
from serverd.supervisor.listeners import Heirloom
from serverd.supervisor.notify import Manager
from serverd.supervisor.origin import current_folder
from serverd.supervisor.roster import Shutdown, Urgency
from serverd.supervisor.spawn import Started
from serverd.supervisor.succession import (
    VARIABLE,
    YOURS,
    Estate,
    Predecessor,
    SuccessionError,
    read_word,
)
from serverd.supervisor.upgrade import (
    Event,
    IllegalTransition,
    State,
    Successor,
    Upgrade,
    next_state,
    patience,
    why_not,
)
from tests.support.world import World, configuration

# Written a second time, by hand and in another form, so that a slip in the table is seen: state -> event -> next.
EXPECTED = """
none         started     booting
booting      serving     handed over
booting      failed      ending
booting      told to go  ending
booting      exited      none
ending       serving     ending
ending       failed      ending
ending       told to go  ending
ending       kill sent   killed
ending       exited      none
killed       serving     killed
killed       failed      killed
killed       exited      none
handed over  exited      lost
"""
LEGAL = {
    (State(words[0]), Event(words[1])): State(words[2])
    for line in EXPECTED.strip().splitlines()
    if (words := [part.strip() for part in line.split("  ") if part.strip()])
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_cell(state: State, event: Event) -> None:
    if (state, event) in LEGAL:
        assert next_state(state, event) is LEGAL[state, event]
        return
    with pytest.raises(IllegalTransition):
        next_state(state, event)


# When


def serving() -> World:
    world = World(configuration(1))
    world.all_ready()
    return world


def test_an_upgrade_may_begin_when_something_serves_and_nothing_else_goes_on() -> None:
    assert why_not(serving().roster, State.NONE, 4711) is None
    assert "nothing serves yet" in (why_not(World(configuration(1)).roster, State.NONE, 4711) or "")
    assert "container" in (why_not(serving().roster, State.NONE, 1) or "")
    for state in (State.BOOTING, State.ENDING, State.KILLED):
        assert why_not(serving().roster, state, 4711) == "an upgrade is under way"
    for state in (State.HANDED_OVER, State.LOST):
        assert "taken over already" in (why_not(serving().roster, state, 4711) or "")
    asked = serving()
    asked.roster.ask_reload("SIGHUP", newer_code=False)
    assert "a reload is under way" in (why_not(asked.roster, State.NONE, 4711) or "")
    following = serving()
    following.roster.follows = True
    assert why_not(following.roster, State.NONE, 4711) is None, "each waits for the one before it"
    following.roster.taking_over = True
    assert "has not let go" in (why_not(following.roster, State.NONE, 4711) or "")
    stopping = serving()
    stopping.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    assert why_not(stopping.roster, State.NONE, 4711) == "the server stops"


def test_a_new_master_has_the_time_of_two_boots() -> None:
    assert patience(60.0) == 130.0
    assert patience(0.0) == math.inf


def test_while_a_new_master_boots_no_reload_begins_and_a_stop_waits_for_its_end() -> None:
    world = serving()
    world.roster.upgrading = True
    world.roster.ask_reload("a file", newer_code=True)
    world.settle()
    assert world.roster.booting is None
    world.roster.upgrading = False
    world.settle()
    assert world.roster.booting is not None, "the wish was kept"

    world = serving()
    world.roster.upgrading = True
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    world.settle()
    world.exits(world.child(state=ChildState.DRAINING))
    assert world.quit is None
    world.roster.upgrading = False
    world.settle()
    assert world.quit == 0


@pytest.mark.parametrize(("urgency", "waits"), [(Urgency.GRACEFUL, True), (Urgency.FAST, False)])
def test_who_stops_the_new_master_waits_for_the_old_one_to_drain(urgency: Urgency, waits: bool) -> None:
    world = serving()
    world.roster.follows = True
    world.roster.shutdown = Shutdown(urgency, 0)
    world.settle()
    world.exits(world.child(state=ChildState.DRAINING if waits else ChildState.STOPPING))
    assert world.quit == (None if waits else 0)
    world.roster.follows = False
    world.settle()
    assert world.quit == 0


def test_after_the_hand_over_children_drain_as_after_a_reload() -> None:
    world = serving()
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0, handed_over=True)
    world.settle()
    (drain,) = world.actions(AskToDrain)
    assert not drain.final, "the backlog is for the new master's children"
    assert world.actions(Quit) == []
    world.exits(world.child(state=ChildState.DRAINING))
    assert world.quit == 0


# What


def an_estate(**more: object) -> Estate:
    fields: dict[str, object] = {
        "pid": os.getpid(),
        "generation": 7,
        "heirlooms": (Heirloom("127.0.0.1:80", 0), Heirloom("unix:/run/ä.sock", 1, (5, 6))),
        "passed": ((2, "web"),),
        "pidfile": ("/run/serverd.pid", 0),
        "manager": Manager("@notify", 2.5, 16),
        "stored": ("serverd/127.0.0.1%3A80",),
    }
    return Estate(**{**fields, **more})  # type: ignore[arg-type]


def test_an_estate_arrives_as_it_was_left() -> None:
    estate = an_estate()
    assert Estate.read(estate.packet()) == estate
    assert estate.descriptors() == [0, 1, 2, 0]
    assert Estate.read(Estate(1).packet()) == Estate(1)


def test_what_a_later_version_adds_is_ignored_and_another_kind_is_refused() -> None:
    told = json.loads(an_estate().packet())
    assert Estate.read(json.dumps({**told, "more": [1]}).encode()) == an_estate()
    with pytest.raises(SuccessionError, match="speaks version 2, and we 1"):
        Estate.read(json.dumps({**told, "v": 2}).encode())


@pytest.mark.parametrize(
    "packet", [b"", b"{}", b"[]", b"null", b'{"v": 1}', b"\xff", b'{"v": 1, "heirlooms": 5}']
)
def test_nonsense_is_one_line(packet: bytes) -> None:
    with pytest.raises(SuccessionError, match="upgrade: "):
        Estate.read(packet)


def test_words_of_a_new_master() -> None:
    assert read_word(b'{"say": "serving", "line": "x", "more": 1}') == ("serving", "x")
    assert read_word(b'{"say": "failed", "reason": "y"}') == ("failed", "y")
    for packet in (b"", b"[]", b'{"say": "yours"}', b"5", b"\xff\xff"):
        with pytest.raises(ValueError, match=r"."):
            read_word(packet)


def test_only_the_process_that_was_meant_takes_an_inheritance() -> None:
    environ = {VARIABLE: "7:1", "HOME": "/"}
    assert Predecessor.take_from(environ, os.getppid()) is None
    assert environ == {"HOME": "/"}
    assert Predecessor.take_from({}, os.getppid()) is None
    assert Predecessor.take_from({VARIABLE: "what?"}, os.getppid()) is None
    with pytest.raises(SuccessionError, match="descriptor 99999 of SERVERD_UPGRADE: Bad file descriptor"):
        Predecessor.take_from({VARIABLE: f"99999:{os.getppid()}"}, os.getppid())


def test_the_old_master_hears_of_an_inheritance_that_cannot_be_taken() -> None:
    old, new = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with old:
        old.send(an_estate(heirlooms=(Heirloom("127.0.0.1:80", 99999),)).packet())
        with pytest.raises(SuccessionError, match="not open here"):
            Predecessor.take_from({VARIABLE: f"{new.detach()}:7"}, 7)
        word, reason = read_word(old.recv(4096))
        assert word == "failed"
        assert "Bad file descriptor" in reason


@pytest.mark.parametrize(("urgency", "seconds"), [(Urgency.GRACEFUL, 20 + 30), (Urgency.FAST, 0)])
def test_a_new_master_that_stops_has_the_time_of_a_lame_duck(urgency: Urgency, seconds: float) -> None:
    """It may serve already, when both are told to stop."""
    roster = World(configuration(1, graceful=20.0, lame_duck=30.0)).roster
    roster.promote()
    unused: Any = None
    upgrade = Upgrade(roster, unused, unused, unused, unused)
    above, below = Channel.pair()
    # Not os.spawnlp: a signal that comes before its exec goes to a handler of Python's, and is lost with it.
    pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    pidfd = os.pidfd_open(pid)
    upgrade._apply(Event.STARTED)
    upgrade._new = Successor(Started(pid, pidfd, above), math.inf)
    began = time.monotonic()
    upgrade.stop(urgency)
    assert upgrade.due() >= began + seconds
    assert upgrade.due() <= time.monotonic() + seconds + 25.0  # for the margins
    assert os.waitpid(pid, 0)[1] in (
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGQUIT | 0x80,
    )  # perhaps with a core
    os.close(pidfd)
    above.close()
    below.close()


def test_yours_is_no_word_of_a_new_master() -> None:
    with pytest.raises(ValueError, match="not a word"):
        read_word(YOURS)


def test_the_folder_is_named_as_it_was_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release1").mkdir()
    (tmp_path / "current").symlink_to("release1")
    monkeypatch.chdir(tmp_path / "current")
    assert current_folder({"PWD": str(tmp_path / "current")}) == str(tmp_path / "current")
    assert current_folder({"PWD": "/"}) == str(tmp_path / "release1"), "it is somewhere else"
    assert current_folder({"PWD": str(tmp_path / "none")}) == ""
    assert current_folder({}) == str(tmp_path / "release1")
