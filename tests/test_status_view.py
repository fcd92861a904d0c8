"""What `serverd status` and `top` show: pure, from the answer to lines."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from serverd.supervisor import status_view, top

STATUS: dict[str, Any] = {
    "v": 1,
    "at": 1000.0,
    "started": 1000.0 - 90061,
    "state": "reloading",
    "app": "shop:app",
    "config": "/srv/shop/server.yaml",
    "version": "0.1.0",
    "python": "3.14.7t",
    "mode": "sync",
    "pid": 7,
    "generation": 3,
    "booting": 4,
    "wanted": 2,
    "listeners": ["http://127.0.0.1:8000", "unix:/run/shop.sock"],
    "reloads": {"succeeded": 2, "failed": 1},
    "last_reload": {"ok": False, "reason": "app: no module \x1b[31m named x", "at": 940.0},
    "restarts": {"crash": 1, "left": 0, "max_rss": 12},
    "lost_threads": 2,
    "totals": {
        "requests": 12345,
        "by_status": {"2xx": 12000, "4xx": 345, "5xx": 0},
        "bounds": [0.001, 0.01, 1.0],
        "latency": {"counts": [6000, 6300, 44, 1], "sum": 20.0},
        "refused": 1234,
        "seen_off": 5,
    },
    "children": [
        {
            "name": "worker 0 g3",
            "pid": 100,
            "state": "ready",
            "seconds": 7200.0,
            "resident": 53 << 20,
            "requests": 6000,
            "states": {"idle": 5, "running": 2, "writing": 1},
            "threads": [
                {"slot": 0, "state": "idle"},
                {"slot": 1, "state": "running", "method": "GET", "path": "/slow", "seconds": 3.24},
                {"slot": 2, "state": "running", "method": "GET", "path": "/", "seconds": 0.01},
            ],
            "waiting": [{"kind": "websocket", "method": "GET", "path": "/chat", "seconds": 61.0}],
        },
        {"name": "worker 0 g4", "pid": 101, "state": "booting", "seconds": 0.4, "resident": 0, "states": {}},
    ],
}


def test_the_whole_picture() -> None:
    assert status_view.lines(STATUS) == [
        "serverd 0.1.0: shop:app, /srv/shop/server.yaml",
        (
            "reloading, generation 3 (1 of 2 children, the log says why), generation 4 boots; up 1 d 1 h, pid 7, "
            "Python 3.14.7t, mode sync"
        ),
        "listening on http://127.0.0.1:8000, unix:/run/shop.sock",
        "reloads: 2 done, 1 failed; the last failed 1 min ago: app: no module \\x1b[31m named x",
        "children replaced: crash 1, max_rss 12",
        "threads that never came back: 2",
        "requests: 12,345 (2xx 12,000, 4xx 345); half took ≤ 10 ms, 99 % ≤ 10 ms",
        "connections beyond limits.connections_per_address: 1,234 closed at once",
        "connections at limits.connections: 5 idle ones closed for new ones",
        "",
        "child        pid  state      age  busy  requests  memory  oldest request",
        "worker 0 g3  100  ready      2 h   3/8     6,000  53 MiB  1 min GET /chat (websocket) (and 2 more)",
        "worker 0 g4  101  booting  0.4 s     -         0   0 MiB  -",
    ]


def test_a_generation_that_is_not_complete() -> None:
    whole = {**STATUS, "wanted": 1}
    assert "reloading, generation 3, " in status_view.lines(whole)[1]
    nobody = {**STATUS, "children": [], "state": "serving"}
    assert "serving, generation 3 (NO CHILD SERVES, the log says why)" in status_view.lines(nobody)[1]


def test_an_answer_of_another_version_is_shown_as_far_as_it_goes() -> None:
    assert status_view.lines({})[0] == "serverd ?: ?"
    assert "no generation serves yet" in status_view.lines({})[1]
    for key in STATUS:
        assert status_view.lines({name: value for name, value in STATUS.items() if name != key})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (60, "1 min"), (61, "1 min"), (3600, "1 h"),
     (3660, "1 h 1 min"), (86400, "1 d"), (90000, "1 d 1 h"), (8640000, "100 d")],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert status_view.age(seconds) == text


def test_a_quantile_is_a_bound() -> None:
    bounds = [0.001, 0.5, 1.0]
    assert status_view.quantile(0.5, [0, 0, 0, 0], bounds) == ""
    assert status_view.quantile(0.5, [1, 1, 0, 0], bounds) == "≤ 1 ms"
    assert status_view.quantile(0.51, [1, 1, 0, 0], bounds) == "≤ 500 ms"
    assert status_view.quantile(0.99, [0, 0, 5, 0], bounds) == "≤ 1 s"
    assert status_view.quantile(0.99, [0, 0, 0, 5], bounds) == "> 1 s"


# top


def later(seconds: float, requests: int) -> dict[str, Any]:
    """The same daemon after so many more requests, each of which took 1 to 10 ms."""
    status = copy.deepcopy(STATUS)
    status["at"] += seconds
    status["totals"]["requests"] += requests
    status["totals"]["latency"]["counts"][1] += requests
    return status


def test_rates_are_of_what_has_happened_in_between() -> None:
    assert top.rates(STATUS, later(2.0, 3000)) == "1,500 requests/s; half took ≤ 10 ms, 99 % ≤ 10 ms"
    assert top.rates(STATUS, later(2.0, 0)) == "0 requests/s"
    assert top.rates(later(2.0, 5), STATUS) == "-", "another daemon, or a clock that was set"


def test_the_requests_are_listed_the_oldest_first() -> None:
    lines = top.screen(STATUS, None)
    start = lines.index("seconds  child        request")
    assert lines[start + 1 :] == [
        "   61.0  worker 0 g3  GET /chat (websocket)",
        "    3.2  worker 0 g3  GET /slow",
        "    0.0  worker 0 g3  GET /",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 5), (1, 1), (200, 60)])
def test_nothing_wraps_and_nothing_scrolls(width: int, height: int) -> None:
    status = later(1.0, 10)
    status["children"] *= 30
    lines = top.screen(status, STATUS, width, height, "nobody listens at \x1b[2J")
    assert len(lines) <= height
    assert all(len(line) <= width and line.isprintable() for line in lines)
    if height > 1:
        assert lines[-1].startswith("… "[:width])


def test_columns_fit_80_characters_with_usual_numbers() -> None:
    (headings,) = (line for line in status_view.lines(STATUS) if "oldest request" in line)
    assert headings.index("oldest request") < 60
