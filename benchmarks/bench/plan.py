"""What a scenario is: a `Plan`, made from the run's `Context`; and the rows that most of them share.

A scenario is a function from Context to Plan, registered in scenarios.py. Nothing is started here, but the environment
of a peer is made at its first use (peers.py). One thread calls all of this.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import contestants, goals, load
from .contestants import APPS, Rows


@dataclass(frozen=True, slots=True)
class Context:
    """What the command line says: CPUs for a server where it may have more than one; where files go; and which."""

    threads: int
    folder: Path
    only: Collection[str] = ()  # kinds of contestants; nothing in it: all
    quick: bool = False  # of each peer one mode, the one that is the faster for most of this

    def wants(self, kind: str) -> bool:
        """Whether this kind of contestant is to be measured at all."""
        return not self.only or kind in self.only


@dataclass(frozen=True, slots=True)
class Plan:
    """One scenario. `cpus` is what each server may use, and the load has as many for itself where there are enough.

    `note(port)` asks a server something that belongs into its name: how it does what is measured.
    """

    title: str
    load: load.Load
    rows: Rows
    goals: Sequence[goals.Goal]
    cpus: int
    connections: int = 64
    rounds: int = 5
    seconds: int = 1  # of each round
    note: Callable[[int], str] | None = None


def serverd(
    context: Context,
    app: str,
    folder: Path = APPS,
    settings: Mapping[str, str] | None = None,
    *,
    threads: int = 0,
    what: str = "",
    needs: Sequence[str] = (),
    access_log: bool = False,
) -> Rows:
    """serverd in one process with a thread for each CPU, or `threads`; what `what` says of it is in its name."""
    threads = threads or context.threads
    name = f"serverd (1 process × {threads} thread{'s' if threads > 1 else ''}{what})"
    keys = {"workers.threads": str(threads), **(settings or {})}
    return contestants.serverd(app, folder, name, keys, needs=needs, access_log=access_log)


def asgi_peers(context: Context, app: str, folder: Path = APPS) -> Rows:
    """All peers that speak ASGI, a process or worker for each CPU."""
    cpus, modes = context.threads, not context.quick
    return _wanted(
        context,
        {
            "uvicorn": lambda: contestants.uvicorn(app, folder, cpus, every_mode=modes),
            "granian": lambda: contestants.granian(app, folder, "asgi", cpus, ws=False, every_mode=modes),
            "gunicorn": lambda: contestants.gunicorn_asgi(app, folder, cpus),
            "hypercorn": lambda: contestants.hypercorn(app, folder, cpus),
            "pounce": lambda: contestants.pounce(app, folder, cpus),
        },
    )


def wsgi_peers(context: Context, app: str, folder: Path = APPS) -> Rows:
    """All peers that speak WSGI: a thread for each CPU, and for gunicorn four as well, which its manual advises."""
    cpus, modes = context.threads, not context.quick
    return _wanted(
        context,
        {
            "granian": lambda: contestants.granian(app, folder, "wsgi", cpus, ws=False, every_mode=modes),
            "gunicorn": lambda: [
                *contestants.gunicorn(app, folder, cpus),
                *(contestants.gunicorn(app, folder, cpus, threads=4) if modes else []),
            ],
            "waitress": lambda: contestants.waitress(app, folder, max(4, cpus)),
        },
    )


def _wanted(context: Context, makers: Mapping[str, Callable[[], Rows]]) -> Rows:
    """The rows of the kinds that are wanted: no environment is made for the others."""
    return [row for kind, make in makers.items() if context.wants(kind) for row in make()]
