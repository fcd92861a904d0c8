"""The corpus of exchanges (tests/corpus/exchange), byte for byte, with real daemons: see tests/support/exchanges.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from ..support.corpus_app import EXCHANGES
from ..support.daemon import Daemon, wait_until
from ..support.exchanges import Play, Talk, load_exchanges, seen
from .test_corpus_sockets import APP

PLAYS = load_exchanges()
WAYS: Final = ("threads", "async", "wsgi")
LIMITS: Final = {"line": 128, "head": 512, "headers": 20, "body": 5000, "buffered_body": 1024}


class Hall:
    """A daemon in which every exchange of its way has been played, all at once: what was wrong with each."""

    def __init__(self, daemon: Daemon, way: str) -> None:
        self.daemon = daemon
        self._numbers = [number for number, play in enumerate(PLAYS) if way in play.by]
        with ThreadPoolExecutor(12) as pool:
            faults = list(pool.map(self._play, self._numbers))
        self.faults = dict(zip(self._numbers, faults, strict=True))
        self._notes = seen(daemon.port)

    def _source(self, number: int) -> str:
        return f"127.{EXCHANGES}.{number // 256}.{number % 256}"

    def _play(self, number: int) -> str:
        return Talk(self._source(number), self.daemon.port).run(PLAYS[number].talk)

    def seen(self, number: int) -> list[dict[str, Any]]:
        """What the application saw of an exchange."""
        return self._notes.get(self._source(number), [])

    def look_again(self) -> None:
        """It may have come to an end after its client did."""
        self._notes = seen(self.daemon.port)


@pytest.fixture(scope="module")
def halls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Hall]]:
    halls: dict[str, Hall] = {}
    daemons = []
    try:
        for way in WAYS:
            config = {
                "app": "demo:wsgi" if way == "wsgi" else "demo:asgi",
                "workers": {"mode": "async" if way == "async" else "sync", "threads": 4},
                "limits": LIMITS,
                "logging": {"access": False, "level": "info"},
            }
            daemons.append(Daemon(tmp_path_factory.mktemp(way), app=APP, config=config))
        for way, daemon in zip(WAYS, daemons, strict=True):
            halls[way] = Hall(daemon.wait_ready(), way)
        yield halls
        assert not any(daemon.count("internal error") for daemon in daemons)
    finally:
        for daemon in daemons:
            daemon.close()


@pytest.mark.parametrize(
    ("way", "number"),
    [
        pytest.param(way, number, id=f"{play.id} ({way})")
        for number, play in enumerate(PLAYS)
        for way in play.by
    ],
)
def test_exchange(halls: dict[str, Hall], way: str, number: int) -> None:
    hall, play = halls[way], PLAYS[number]
    assert not hall.faults[number]
    if play.seen is not None:
        saw_it(hall, number, play)
    if play.log:
        wait_until(lambda: hall.daemon.count(play.log), f"a line that matches {play.log!r}")


def saw_it(hall: Hall, number: int, play: Play) -> None:
    wanted = play.seen or []

    def saw() -> bool:
        notes = hall.seen(number)
        if len(notes) != len(wanted):
            hall.look_again()
            return False
        return [{key: note[key] for key in want} for want, note in zip(wanted, notes, strict=True)] == wanted

    wait_until(saw, f"{wanted}, and not {hall.seen(number)}")


def test_every_exchange_is_played_and_names_its_source() -> None:
    assert len({play.id for play in PLAYS}) == len(PLAYS)
    assert all(play.rfc and play.by and set(play.by) <= set(WAYS) for play in PLAYS)
    assert sum(len(play.by) for play in PLAYS) > 600
    for play in PLAYS:
        re.compile(play.log)
