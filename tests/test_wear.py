"""wear: when a child has served long enough, decided without a process."""

from __future__ import annotations

import math
import os
from itertools import pairwise

import pytest

from serverd.config import WorkersConfig
from serverd.server import wear
from serverd.server.wear import Facts, Limits, Wear, worn_out

MIB = 1 << 20
NEVER = Limits(0, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("limits", "facts", "reason"),
    [
        (NEVER, Facts(10**9, 10**9, 10**12, 1), None),
        (Limits(100, 0, 0, 0), Facts(99, 0, 0, 0), None),
        (Limits(100, 0, 0, 0), Facts(100, 0, 0, 0), "max_requests"),
        (Limits(0, 60, 0, 0), Facts(0, 59.9, 0, 0), None),
        (Limits(0, 60, 0, 0), Facts(0, 60, 0, 0), "max_lifetime"),
        (Limits(0, 0, 50 * MIB, 0), Facts(0, 0, 50 * MIB - 1, 0), None),
        (Limits(0, 0, 50 * MIB, 0), Facts(0, 0, 50 * MIB, 0), "max_rss"),
        (Limits(0, 0, 0, 10 * MIB), Facts(0, 0, 90 * MIB, 0), None),
        (Limits(0, 0, 0, 10 * MIB), Facts(0, 0, 59 * MIB, 50 * MIB), None),
        (Limits(0, 0, 0, 10 * MIB), Facts(0, 0, 60 * MIB, 50 * MIB), "max_growth"),
        (Limits(5, 5, 5, 5), Facts(5, 5, 5, 0), "max_requests"),
    ],
)
def test_each_limit(limits: Limits, facts: Facts, reason: str | None) -> None:
    found = worn_out(limits, facts)
    assert (found[0] if found else None) == reason
    if found:
        assert f"workers.{reason}" in found[1]


def test_jitter_is_added() -> None:
    workers = WorkersConfig(max_requests=1000, max_requests_jitter=100)
    assert [Limits.of(workers, chance).requests for chance in (0.0, 0.5, 1.0)] == [1000, 1050, 1100]
    assert Limits.of(WorkersConfig(max_requests_jitter=100), 1.0).requests == 0


def test_without_a_limit_it_never_looks() -> None:
    assert Wear(WorkersConfig(), 0.0).due == math.inf


def test_it_looks_every_second_under_load_and_seldom_without() -> None:
    worn = Wear(WorkersConfig(max_requests=1000), 0.0)
    times = []
    for requests in (10, 20, 20, 20, 20, 20, 20, 30):
        times.append(worn.due)
        assert worn.look(requests, worn.due) is None
    assert [after - before for before, after in pairwise(times)] == [
        1,
        1,
        2,
        4,
        8,
        16,
        16,
    ]
    assert worn.look(10**6, worn.due - 0.1) is None, "not due"
    assert worn.look(1000, worn.due) == ("max_requests", "1000 requests (workers.max_requests)")
    assert worn.due == math.inf, "once is enough"


def test_a_lifetime_ends_on_time() -> None:
    worn = Wear(WorkersConfig(max_lifetime=90.0), 10.0)
    assert worn.due == 100.0
    found = worn.look(0, 100.0)
    assert found == ("max_lifetime", "90s of life (workers.max_lifetime)")


def test_growth_counts_from_the_first_minute_on(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * MIB
    monkeypatch.setattr(wear, "resident", lambda: size)
    worn = Wear(WorkersConfig(max_growth=5 * MIB), 0.0)
    while worn.due <= 2 * wear.WARM:
        if worn.due < wear.WARM / 2:
            size += MIB
        assert worn.look(0, worn.due) is None
    size += 5 * MIB
    found = worn.look(0, worn.due)
    assert found is not None
    assert found[0] == "max_growth"


def test_the_memory_of_a_process_is_read() -> None:
    assert wear.resident() == pytest.approx(wear.resident(os.getpid()), rel=0.2)
    assert wear.resident() > MIB
    assert wear.resident(2**22 + 1) == 0
