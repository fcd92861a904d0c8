"""What is asked of the number of children, without a process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from serverd.supervisor.control_commands import Commands
from serverd.supervisor.control_lines import MOST_CHILDREN, Request
from serverd.supervisor.orders import Orders
from tests.support.world import World, configuration


def orders_of(world: World) -> Orders:
    """The other parts are not asked."""
    nobody: Any = SimpleNamespace(busy=lambda: None)
    return Orders(world.roster, nobody, nobody, nobody, nobody, nobody, lambda: None)


class Asker:
    """Takes the answer."""

    who = "pid 1, uid 0"

    def __init__(self) -> None:
        self.wanted = 0
        self.error = ""

    def succeed(self, *, wanted: int) -> None:
        self.wanted = wanted

    def fail(self, error: str) -> None:
        self.error = error


def test_however_often_more_are_asked_for_there_is_a_most() -> None:
    world = World(configuration(2))
    orders = orders_of(world)
    assert orders.scale(MOST_CHILDREN - 3, "SIGTTIN") == MOST_CHILDREN - 1
    assert orders.scale(1, "SIGTTIN") == MOST_CHILDREN
    assert orders.scale(1, "SIGTTIN") == MOST_CHILDREN
    assert orders.scale(-1, "SIGTTOU") == MOST_CHILDREN - 1


def test_who_asks_for_too_many_hears_it_and_nothing_changes() -> None:
    world = World(configuration(2))
    unused: Any = None
    commands = Commands(world.roster, orders_of(world), unused, unused, dict)

    def scale(by: int) -> Asker:
        asker: Any = Asker()
        commands.answer(Request("scale", {"by": by}), asker)
        assert isinstance(asker, Asker)
        return asker

    assert scale(1000).wanted == 1002
    asker = scale(23)
    assert asker.wanted == 0
    assert asker.error == "1002 and 23 more would be 1025 children, and 1024 are the most that may be wanted"
    assert world.roster.wanted == 1002
    assert scale(-2).wanted == 1000
