"""The parts of a run that are not the rate of one load against many servers: memory, growth and the like.

Each is a module beside this one with `measure(settings: Settings) -> report.Section`, and one line in `SECTIONS`, in
the order in which they are measured, after the rates. A module is imported when it is measured: each may import
`Settings` from here, and what one of them needs and this machine has not is the trouble of that one alone. Nothing
is measured here. One thread calls all of this.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from .report import Section


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says to a section."""

    folder: Path  # for files, removed afterwards
    only: Collection[str]  # kinds of contestants; nothing in it: all
    quick: bool  # two minutes for everything together: what is slow is left out or made short
    held: int  # connections to hold in `memory`


type Measure = Callable[[Settings], Section]


def _of(module: str) -> Measure:
    """`measure` of a module of this package, imported when it is called."""

    def measure(settings: Settings) -> Section:
        found = import_module(f".{module}", __package__)
        return cast(Measure, found.measure)(settings)

    return measure


SECTIONS: dict[str, Measure] = {
    "cpu-bound": _of("cpu_bound"),
    "event-streams": _of("event_streams"),
    "slow-among-fast": _of("slow_among_fast"),
    "idle": _of("idle"),
    "start-up": _of("start_up"),
    "reload": _of("reloading"),
    "footprint": _of("footprint"),
    "memory": _of("memory"),
    "preload": _of("preload"),
    "growth": _of("growth"),
    "connections": _of("growth_connections"),
    "latency": _of("growth_latency"),
}
