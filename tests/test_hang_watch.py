"""The child's look for requests that take too long: how long it takes itself, without a thread that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.config.model import TimeoutsConfig
from serverd.server import hang_watch
from serverd.server.arena import NO_PAPERS
from serverd.server.hang_watch import BUDGET, MOST_STACKS, HangWatch
from serverd.server.http.events import RequestReceived
from serverd.server.slots import REQUEST, inherited
from serverd.server.stacks import Held


class Conn:
    request = None
    out = None


class Waiting:
    """As much of an exchange as is looked at."""

    kind = REQUEST
    done = False
    conn = Conn()

    def __init__(self, number: int) -> None:
        self.request = RequestReceived("GET", b"/", f"/{number}".encode(), b"", "1.1", [])
        self.since = 1.0


class Asked:
    """Stacks that count who is asked."""

    def __init__(self, answers: list[bool], takes: float = 0.0) -> None:
        self.answers = answers
        self.patience: list[float] = []
        self._takes = takes

    def ask_thread(self, native_id: int, patience: float) -> tuple[bool, list[str]]:
        self.patience.append(patience)
        time.sleep(self._takes)
        return self.answers[len(self.patience) - 1], ["x.py:1 in x"]


@pytest.fixture
def threads() -> Iterator[list[threading.Thread]]:
    over = threading.Event()
    started = [threading.Thread(target=over.wait) for _ in range(MOST_STACKS + 4)]
    for thread in started:
        thread.start()
    yield started
    over.set()
    for thread in started:
        thread.join()


def look(threads: list[threading.Thread], asked: Asked) -> None:
    slot = inherited(NO_PAPERS).take()
    held: dict[int, Any] = {
        thread.ident or 0: Held(Waiting(number), {}, None, slot)  # type: ignore[arg-type]
        for number, thread in enumerate(threads)
    }
    watch = HangWatch(TimeoutsConfig(request=1.0), lambda: held, asked)  # type: ignore[arg-type]
    watch.tend(time.monotonic())


def test_all_are_named_and_some_are_asked(
    threads: list[threading.Thread], caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked([True] * MOST_STACKS)
    look(threads, asked)
    assert len(asked.patience) == MOST_STACKS
    assert caplog.text.count("takes longer than timeouts.request") == len(threads)
    assert caplog.text.count("x.py:1 in x") == MOST_STACKS


def test_after_one_that_does_not_answer_no_other_is_asked(
    threads: list[threading.Thread], caplog: pytest.LogCaptureFixture
) -> None:
    """With 16 of them the child's main thread stood still for 8 s, and the master took it for frozen."""
    asked = Asked([True, False])
    look(threads, asked)
    assert len(asked.patience) == 2
    assert caplog.text.count("takes longer than timeouts.request") == len(threads)


def test_all_of_one_look_share_a_budget(
    threads: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang_watch, "BUDGET", 0.1)
    asked = Asked([True] * MOST_STACKS, takes=0.04)
    look(threads, asked)
    assert 1 <= len(asked.patience) <= 3
    assert max(asked.patience) <= 0.1
    assert BUDGET + 0.5 < 2.0, "the master's patience with a main thread, whatever the limits"
