"""What the scoreboard has counted is what clients were answered, whatever has become of the children that did it."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from serverd.server.facts import read_counts
from serverd.server.scoreboard import Arena
from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_for_more, wait_until


def open_arena(daemon: Daemon) -> Arena:
    """The master's, which nobody else has by name."""
    links = Path(f"/proc/{daemon.pid}/fd").iterdir()
    (memory,) = [link for link in links if "serverd-scoreboard" in os.readlink(link)]
    return Arena(os.open(memory, os.O_RDONLY))


def load(port: int, stop: threading.Event, answered: list[int]) -> None:
    """Requests, 20 on a connection; `answered` gets the length of each body."""
    while not stop.is_set():
        with RawClient(("127.0.0.1", port)) as client:
            for _ in range(20):
                response = client.get("/")
                answered.append(len(response.body))
                if response.header("connection") == "close":
                    break


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_every_answer_of_every_generation_is_counted_once(tmp_path: Path, start_method: str) -> None:
    config = {"workers": {"processes": 2, "start_method": start_method}}
    with Daemon(tmp_path, config=config) as daemon:
        daemon.wait_ready()
        arena = open_arena(daemon)
        stop = threading.Event()
        answered: list[int] = []  # by the clients' threads; list.append is atomic
        seen: list[int] = []

        def watch() -> None:
            while not stop.is_set():
                counts = read_counts(arena)
                assert counts is not None
                seen.append(counts.totals.requests)

        client = partial(load, daemon.port, stop, answered)
        threads = [threading.Thread(target=work) for work in (watch, client, client)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                wait_for_more(answered, 50)
                mark = daemon.mark()
                daemon.signal(signal.SIGHUP)
                daemon.wait_for_line(r"generation \d+ ready", after=mark)
            wait_for_more(answered, 50)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

        def all_counted() -> bool:
            counts = read_counts(arena)
            return counts is not None and counts.totals.by_class["2xx"] == len(answered)

        wait_until(all_counted, "every answer is counted")
        counts = read_counts(arena)
        assert counts is not None
        assert counts.totals.sent == sum(answered)
        assert counts.totals.requests == sum(counts.totals.latency) == len(answered)
        assert counts.facts["generation"] == 3
        assert seen == sorted(seen), "totals never go backwards"
        arena.close()
