"""What the health checks answer, from a snapshot: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serverd.server.admin import health
from serverd.server.admin.health import Capacity
from serverd.server.admin.snapshot import Child, Snapshot, Thread


def threads(*since: float | None) -> tuple[Thread, ...]:
    """Worker threads; None is an idle one."""
    return tuple(Thread(slot, "idle" if at is None else "running", since=at) for slot, at in enumerate(since))


def child(*since: float | None, state: str = "ready", workers: int | None = None) -> Child:
    number = len(since) if workers is None else workers
    return Child(0, 1, 100, state, 0.0, workers=number, threads=threads(*since))


def daemon(
    *children: Child, now: float = 100.0, state: str = "serving", generation: int | None = 1
) -> Snapshot:
    return Snapshot(
        now=now, at=0.0, state=state, started=0.0, pid=1, generation=generation, children=children
    )


def looked(*snapshots: Snapshot) -> Capacity:
    capacity = Capacity()
    for snapshot in snapshots:
        capacity.look(snapshot)
    return capacity


@pytest.mark.parametrize(
    ("snapshot", "ok", "reason"),
    [
        (None, False, "published nothing"),
        (daemon(child(None)), True, "generation 1 serves"),
        (daemon(child(None), state="reloading"), True, "generation 1 serves"),
        (daemon(child(None, state="booting"), state="booting", generation=None), False, "booting"),
        (daemon(child(None), state="stopping"), False, "stopping"),
        (daemon(child(None, state="draining"), state="handed over"), True, "another master"),
        (replace(daemon(child(None), state="stopping"), lame_duck=True), False, "lame duck"),
        (daemon(), False, "no child serves"),
        (daemon(child(None, state="draining")), False, "no child serves"),
        (daemon(child(None, state="booting")), False, "no child serves"),
    ],
)
def test_ready_when_a_generation_serves_and_nobody_wants_the_traffic_elsewhere(
    snapshot: Snapshot | None, ok: bool, reason: str
) -> None:
    found = health.ready(snapshot, looked(), 10.0)
    assert found.ok == ok
    assert reason in found.reason
    assert "\n" not in found.reason


def test_not_ready_when_every_thread_has_been_busy_for_longer_than_the_limit() -> None:
    full = daemon(child(80.0, 85.0), child(89.5))
    found = health.ready(full, looked(full), 10.0)
    assert found == health.Verdict(False, "no idle capacity: all 3 threads busy for 10.5 s")
    assert health.ready(full, looked(full), 11.0).ok
    assert health.ready(full, looked(full), 0.0).ok, "0 switches it off"


def test_one_idle_thread_anywhere_is_capacity() -> None:
    found = daemon(child(10.0, 10.0), child(10.0, None))
    assert looked(found).full(100.0) == 0.0
    # A thread that has not served yet has no slot, and is idle all the same.
    assert looked(daemon(child(10.0, workers=2))).full(100.0) == 0.0


def test_the_idle_threads_of_a_child_that_does_not_serve_are_none() -> None:
    found = daemon(child(10.0), child(None, state="draining"), child(None, state="booting"))
    assert looked(found).full(100.0) == 90.0


def test_short_requests_on_all_threads_count_only_when_somebody_has_looked_again_and_again() -> None:
    # Each look finds another request, begun a moment ago: the threads may have been idle in between, unless the looks
    # come so close to each other that they would have seen it.
    capacity = Capacity()
    for second in range(13):
        capacity.look(daemon(child(second - 0.1, second - 0.2), now=float(second)))
    assert capacity.full(12.0) == pytest.approx(12.1)
    seldom = Capacity()
    for second in range(0, 60, 10):
        seldom.look(daemon(child(second - 0.1, second - 0.2), now=float(second)))
    assert seldom.full(50.0) == pytest.approx(0.1)


def test_an_idle_thread_begins_the_count_anew() -> None:
    capacity = looked(
        daemon(child(10.0), now=100.0), daemon(child(None), now=101.0), daemon(child(101.5), now=102.0)
    )
    assert capacity.full(102.0) == 1.0


def test_without_worker_threads_idleness_says_nothing() -> None:
    loop = Child(0, 1, 100, "ready", 0.0, workers=0, threads=(Thread(1, "running", since=10.0, home=True),))
    found = daemon(loop)
    assert health.ready(found, looked(found), 10.0).ok


def test_started_when_a_generation_has_served_and_then_for_good() -> None:
    assert not health.started(None).ok
    assert not health.started(daemon(state="booting", generation=None)).ok
    for state in ("serving", "reloading", "stopping"):
        assert health.started(daemon(state=state)).ok


def test_alive_until_the_master_has_owed_an_answer_for_long() -> None:
    assert health.alive(0.0).ok
    assert health.alive(0.03).ok
    assert health.alive(health.DEAF - 0.1).ok
    assert health.alive(health.DEAF) == health.Verdict(False, "the master has not answered for 10 s")
