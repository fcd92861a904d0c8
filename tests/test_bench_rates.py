"""What the benchmark makes of its figures: the best peer, paired rounds, who qualifies, and the table of all goals.

`benchmarks` is no package of ours; its package `bench` is imported from its folder, as `benchmarks/run.py` does it.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("goals", "load", "qualifying", "report")
    return SimpleNamespace(**{name: importlib.import_module(f"bench.{name}") for name in names})


def a_run(bench: SimpleNamespace, rate: float, *, errors: int = 0, served: float | None = 1.0) -> Any:
    return bench.load.Run(
        requests=int(rate),
        seconds=1.0,
        cpu_us=1e6 / rate,
        p50_us=1,
        p99_us=2,
        p999_us=3,
        errors=errors,
        others=0.0,
        load_share=0.5,
        served=served,
    )


def a_result(bench: SimpleNamespace, kind: str, *rates: float) -> Any:
    result = bench.report.Result(f"{kind} 1.0 (its mode)", kind, "3.14.7t")
    result.runs = [a_run(bench, rate) for rate in rates]
    return result


def test_a_goal_is_against_the_fastest_peer_round_by_round(bench: SimpleNamespace) -> None:
    results = [
        a_result(bench, "raw", 9000, 9000, 9000),
        a_result(bench, "serverd", 300, 30, 300),  # all were disturbed in the second round
        a_result(bench, "uvicorn", 100, 10, 100),
        a_result(bench, "granian", 200, 20, 200),
    ]
    lines, (verdict, told) = bench.goals.judge(
        "hello", (bench.goals.best_peer(1.4), bench.goals.throughput("gunicorn", 2.0)), results
    )
    assert (verdict.scenario, verdict.aim) == ("hello", "at least 1.4 × the best peer")
    assert verdict.value == pytest.approx(1.5)
    assert verdict.text.startswith("1.50 × granian 1.0")
    assert verdict.met is True
    assert lines[0].endswith(": met")
    assert (told.value, told.met) == (None, None)


def test_a_peer_with_errors_and_one_that_leaves_clients_waiting_come_last(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []

    class Server:
        def __init__(self, port: int) -> None:
            self.port = self.pid = port

        def stop(self) -> None:
            stopped.append(self.port)

    runs = {
        1: a_run(bench, 50),
        2: a_run(bench, 100),
        3: a_run(bench, 900, errors=1),
        4: a_run(bench, 800, served=0.1),
        5: a_run(bench, 10),
    }
    monkeypatch.setattr(bench.load, "run", lambda asks, port, *rest: runs[port])
    entrants = [
        bench.qualifying.Entrant(bench.report.Result(f"s (number {port})", kind, "3.14.7t"), Server(port))
        for port, kind in enumerate(("serverd", "pounce", "pounce", "pounce", "uvicorn"), 1)
    ]
    not_there = bench.qualifying.Entrant(bench.report.Result("pounce", "pounce", "3.13.0", "needs more"))
    stay, lines = bench.qualifying.qualify(None, [*entrants, not_there], frozenset(), 64)
    assert stay == [entrants[0], entrants[1], entrants[4], not_there]
    assert stopped == [3, 4]
    (line,) = lines
    assert "in the table is number 2 on 3.14.7t (100/s)" in line
    assert "1 errors" in line
    assert "serves 10% of the connections at a time" in line


def test_a_request_has_its_headers_in_their_order_and_its_length(bench: SimpleNamespace) -> None:
    made = bench.load.message("POST", "/a", {"X-Second": "2", "X-First": "1"}, b"body")
    assert made == (
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Second: 2\r\nX-First: 1\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert bench.load.message() == bench.load.REQUEST


def test_the_last_table_has_every_goal(bench: SimpleNamespace) -> None:
    verdicts = [
        bench.report.Verdict("a", "at least 2", 3.0, "3.00", True),
        bench.report.Verdict("a", "at least 4", 3.0, "3.00", False),
        bench.report.Verdict("a", "beside that", 3.0, "3.00", None),
        bench.report.Verdict("a", "at least 5", None, "not measured", None),
    ]
    section = bench.report.Section("a", "", "", (), (), True, verdicts)
    lines = bench.report.summary([section]).splitlines()
    assert [line.rsplit("|", 2)[1].strip() for line in lines[2:]] == ["met", "**missed**", "", "not measured"]
