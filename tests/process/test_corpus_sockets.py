"""The corpus of requests, played to a real daemon over real sockets: see tests/support/corpus_player.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.corpus import load
from ..support.corpus_bytes import PLACES, byte_cases
from ..support.corpus_player import Player
from ..support.daemon import Daemon

ROOT = Path(__file__).resolve().parents[2]
# Some 10,000 connections in each test: 10 s where nothing else runs, and a minute on a machine that is busy.
pytestmark = pytest.mark.timeout(300)
HOWS = ["whole", "by line", "by byte", "random 0"]
APP = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.support import corpus_app
corpus_app.patch_reader()
asgi, wsgi = corpus_app.asgi, corpus_app.wsgi
"""


@pytest.fixture(scope="module", params=["threads", "async", "wsgi"])
def player(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Player]]:
    way: str = request.param
    config = {
        "app": "demo:wsgi" if way == "wsgi" else "demo:asgi",
        "workers": {"mode": "async" if way == "async" else "sync"},
        "logging": {"access": False, "level": "info"},
    }
    with Daemon(tmp_path_factory.mktemp(way), app=APP, config=config) as daemon:
        daemon.wait_ready()
        yield way, Player(daemon.port, wsgi=way == "wsgi")
        assert daemon.count("Traceback|error") == 0


def test_the_corpus(player: tuple[str, Player]) -> None:
    way, played = player
    hows, forces = (HOWS, (False, True)) if way == "threads" else (["whole", "by byte"], (way == "async",))
    faults = played.play(load("valid") + load("invalid"), hows, forces)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(sorted(faults)[:20])


@pytest.mark.parametrize("player", ["threads"], indirect=True)
def test_every_byte_in_every_place(player: tuple[str, Player]) -> None:
    cases = [case for place in PLACES for case in byte_cases(place)]
    faults = player[1].play(cases, ["whole"], (False,))
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(sorted(faults)[:20])
