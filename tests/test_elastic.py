"""How many threads there should be, and how the use of the CPU is measured."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serverd.server.elastic import CALM, CpuMeter, Sample, Use, decide

BLOCKED = Use(0.1, 0.0)
# Between 4 and 64 threads on 2 CPUs; all threads are busy in calls that block, and requests wait.
WAITING = Sample(
    threads=4, least=4, most=64, cpus=2, wait=0.05, use=BLOCKED, busiest=4, calm_since=100.0, now=100.0
)  # fmt: skip
QUIET = replace(WAITING, wait=0.0, use=None, threads=64, busiest=0, now=100.0 + CALM)


def test_threads_come_by_half_of_what_there_is() -> None:
    threads = [4]
    while change := decide(replace(WAITING, threads=threads[-1])):
        threads.append(threads[-1] + change)
    assert threads == [4, 6, 9, 13, 19, 28, 42, 63, 64]
    assert decide(replace(WAITING, threads=1, least=1)) == 1


@pytest.mark.parametrize(
    ("use", "change"),
    [
        (Use(0.0, 0.0), 2),
        (Use(1.7, 0.0), 2),
        (Use(1.8, 0.0), 0),  # the CPUs are full
        (Use(0.9, 0.9), 0),  # of ours and of others: as many threads want to run as there are CPUs
        (Use(0.1, 0.4), 2),  # on a busy machine, but the threads are blocked nearly all the time
        (None, 0),  # not measured yet
    ],
)
def test_threads_come_only_while_the_cpu_has_room(use: Use | None, change: int) -> None:
    assert decide(replace(WAITING, use=use)) == change


def test_a_quota_is_the_end_of_the_cpu_too() -> None:
    """Half a CPU of 64: four threads that only compute run for an eighth of the time each, and wait for the rest."""
    assert decide(replace(WAITING, cpus=64, use=Use(0.5, 3.5))) == 0
    assert decide(replace(WAITING, cpus=64, use=Use(3.9, 0.1))) == 2  # and without one they use what is there


def test_nothing_waits_so_nothing_comes() -> None:
    assert decide(replace(WAITING, wait=0.005)) == 0
    assert decide(replace(WAITING, wait=0.0, busiest=4)) == 0


def test_never_more_than_the_most() -> None:
    assert decide(replace(WAITING, threads=60)) == 4
    assert decide(replace(WAITING, threads=64)) == 0


def test_threads_leave_by_half_of_what_was_not_needed() -> None:
    threads = [64]
    while change := decide(replace(QUIET, threads=threads[-1])):
        threads.append(threads[-1] + change)
    assert threads == [64, 34, 19, 11, 7, 5, 4]


def test_threads_that_were_needed_stay() -> None:
    assert decide(replace(QUIET, now=QUIET.now - 0.1)) == 0
    assert decide(replace(QUIET, busiest=64)) == 0
    assert decide(replace(QUIET, busiest=40)) == -12  # half of 64 - 41
    assert decide(replace(QUIET, threads=4)) == 0


def test_threads_that_could_not_start_are_made_up_for() -> None:
    assert decide(replace(WAITING, threads=2, wait=0.0)) == 2


def test_what_threads_did_is_measured() -> None:
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    busy, blocked = threading.Thread(target=spin), threading.Thread(target=over.wait)
    busy.start()
    blocked.start()
    try:
        meter = CpuMeter()
        assert busy.native_id is not None
        assert blocked.native_id is not None
        assert meter.measure([busy.native_id], time.monotonic()) is None  # nothing to compare with
        over.wait(0.2)
        use = meter.measure([busy.native_id, blocked.native_id], time.monotonic())
        assert use is not None
        assert 0.5 < use.running + use.delayed < 2.1
        assert meter.measure([busy.native_id], time.monotonic()) is None  # too soon
        meter.measure([blocked.native_id], time.monotonic() + 0.2)
        over.wait(0.2)
        use = meter.measure([blocked.native_id], time.monotonic() + 0.4)
        assert use is not None
        assert use.running + use.delayed < 0.2
    finally:
        over.set()
        busy.join()
        blocked.join()


def test_a_thread_that_waits_for_the_cpu_all_the_time_is_not_blocked(tmp_path: Path) -> None:
    """The kernel counts a wait when it is over."""
    for tid, state in (("7", "R"), ("8", "S")):
        (tmp_path / tid).mkdir()
        (tmp_path / tid / "schedstat").write_text("1000 2000 3\n")
        (tmp_path / tid / "stat").write_text(f"{tid} (a name) with ) {state}) {state} 1 1 1\n")
    meter = CpuMeter(tmp_path)
    meter.measure([7, 8], 100.0)
    assert meter.measure([7, 8], 100.1) == Use(0.0, 1.0)


def test_a_kernel_without_accounts_of_threads(tmp_path: Path) -> None:
    """gVisor, and CONFIG_SCHED_INFO left out: the process as a whole is better than nothing."""
    meter = CpuMeter(tmp_path)
    now = time.monotonic()
    meter.measure([1], now)
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    use = meter.measure([1], now + 0.1)
    assert use is not None
    assert use.running > 0.4
    assert use.delayed == 0.0
