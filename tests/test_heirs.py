"""Who gets the connections of a child that leaves: decided from the roster, and carried by real socket pairs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from serverd.config import TlsConfig
from serverd.server.channel import MOST_HEIRS, Channel, Inherit
from serverd.supervisor.child_state import Event
from serverd.supervisor.heirs import heirs_of, introduced
from serverd.supervisor.roster import Child, Shutdown, Urgency
from tests.support.world import World, configuration


def serving(processes: int = 2) -> World:
    world = World(configuration(processes))
    world.all_ready()
    return world


def names(world: World, child: Child) -> list[str]:
    return [heir.name for heir in heirs_of(child, world.roster)]


def test_the_old_generation_leaves_to_the_new_one_each_beginning_with_another() -> None:
    world = serving(2)
    old = list(world.roster.children)
    world.roster.ask_reload("test", newer_code=False)
    world.settle()
    world.all_ready()
    assert world.current().number == 2
    assert [names(world, child) for child in old] == [
        ["worker 0 g2", "worker 1 g2"],
        ["worker 1 g2", "worker 0 g2"],
    ]


def test_a_generation_that_still_boots_gets_nothing() -> None:
    world = serving(2)
    world.roster.ask_reload("test", newer_code=False)
    world.settle()
    assert names(world, world.child(0, 1)) == ["worker 1 g1"]


def test_of_a_generation_that_shrinks_those_who_stay_get_everything() -> None:
    world = serving(3)
    world.current().wanted = 1
    assert names(world, world.child(2)) == ["worker 0 g1"]
    assert names(world, world.child(1)) == ["worker 0 g1"]


def test_the_last_child_has_no_heirs() -> None:
    world = serving(1)
    assert names(world, world.child(0)) == []


def test_one_that_leaves_itself_gets_nothing() -> None:
    world = serving(3)
    world.child(1).apply(Event.DRAIN_SENT, world.now)
    assert names(world, world.child(0)) == ["worker 2 g1"]


def test_one_that_is_worn_gets_something_only_if_nobody_else_is_there() -> None:
    world = serving(3)
    world.child(1).worn = "max_requests"
    assert names(world, world.child(0)) == ["worker 2 g1"]
    world.child(2).worn = "max_requests"
    assert names(world, world.child(0)) == ["worker 1 g1", "worker 2 g1"]


def test_nobody_inherits_when_the_server_stops() -> None:
    world = serving(2)
    world.roster.shutdown = Shutdown(Urgency.GRACEFUL, 0)
    assert names(world, world.child(0)) == []


def test_a_generation_with_tls_takes_nothing() -> None:
    world = serving(2)
    current = world.current()
    current.config = replace(current.config, tls=TlsConfig(cert=Path("server.pem"), key=Path("server.key")))
    assert names(world, world.child(0)) == []


def test_a_child_that_never_served_has_nothing_to_leave() -> None:
    world = serving(2)
    world.current().wanted = 3
    world.settle()
    assert names(world, world.child(2)) == []


def test_there_are_never_too_many() -> None:
    world = serving(MOST_HEIRS + 5)
    assert len(names(world, world.child(3))) == MOST_HEIRS


@contextlib.contextmanager
def on_the_phone(*children: Child) -> Iterator[list[Channel]]:
    """The children's ends of their channels."""
    ends = []
    for child in children:
        child.channel, below = Channel.pair()
        child.channel.sock.setblocking(False)
        ends.append(below)
    yield ends
    for child, end in zip(children, ends, strict=True):
        assert child.channel is not None
        child.channel.close()
        end.close()


def test_each_heir_hears_of_it_and_shares_a_socket_with_the_one_that_leaves() -> None:
    old, *heirs = (Child(index, 1, 0.0) for index in range(3))
    with on_the_phone(*heirs) as ends, introduced(old, heirs) as ways:
        assert len(ways) == 2
        for way, end in zip(ways, ends, strict=True):
            message, (fd,) = end.recv_with(1)
            assert message == Inherit("worker 0 g1")
            with socket.socket(fileno=fd) as theirs, socket.socket(fileno=way) as ours:
                ours.send(b"a batch")
                assert theirs.recv(100) == b"a batch"
                ours.detach()


def test_an_heir_that_hears_nothing_is_left_out() -> None:
    old, deaf, gone, well = (Child(index, 1, 0.0) for index in range(4))
    with on_the_phone(deaf, well) as ends:
        assert deaf.channel is not None
        while deaf.channel.send(Inherit("more than it reads")):
            pass
        with introduced(old, [deaf, gone, well]) as ways:
            assert len(ways) == 1
        message, descriptors = ends[1].recv_with(1)
        assert message == Inherit("worker 0 g1")
        with socket.socket(fileno=descriptors[0]) as theirs:
            assert theirs.recv(100) == b"", "the master has kept nothing"
