"""The metrics as Prometheus reads them: its own parser, and the rules that promtool checks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from serverd.server.admin import metrics, status
from serverd.server.admin.health import Verdict
from serverd.server.admin.snapshot import Child, Figures, Histogram, Reload, Snapshot, Thread, Waiting
from serverd.server.slots import BOUNDS

EMPTY = Snapshot(now=0.0, at=0.0, state="booting", started=1700000000.25, pid=1)

COUNTS = tuple(range(1, len(BOUNDS) + 2))
FULL = Snapshot(
    now=100.0,
    at=1700000100.0,
    state="reloading",
    started=1700000000.25,
    pid=1,
    version="1.2",
    app='we"ird\\app\n:x',
    python="3.14.7t",
    wanted=2,
    generation=3,
    booting=4,
    children=(
        Child(
            0, 3, 11, "ready", 90.0, gil=False, resident=1000, workers=3,
            threads=(
                Thread(1, "idle", home=True),
                Thread(2, "running", "GET", "/a", "0.3-2-17", 99.5),
                Thread(3, "writing", "GET", "/b", "0.3-3-4", 97.0),
            ),
            waiting=(Waiting("websocket", "GET", "/ws", 50.0),),
            held={"request": 1, "websocket": 2, "event stream": 0},
            connections={"idle": 5, "running": 2}, accept_pauses=1,
        ),
        Child(1, 3, 12, "ready", 90.0, gil=True, resident=2000, workers=3, connections={"idle": 1}),
        Child(0, 4, 13, "booting", 99.0),
    ),
    figures=Figures(
        136, {"2xx": 130, "5xx": 4, "499": 2}, 5000, Histogram(COUNTS, 12.5), Histogram((7,) + (0,) * 15, 0.001)
    ),
    reloads={"succeeded": 2, "failed": 1},
    last_reload=Reload(False, "no", 1700000050.0),
    restarts={"crash": 1, "max_rss": 2},
    lost_threads=1,
    resident={"master": 300, "admin": 400},
)  # fmt: skip


def families(snapshot: Snapshot) -> dict[str, Metric]:
    text = metrics.render(snapshot).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, label: str = "") -> dict[str, float]:
    return {sample.labels.get(label, ""): sample.value for sample in family.samples}


@pytest.mark.parametrize("snapshot", [EMPTY, FULL, replace(FULL, children=())])
def test_every_line_is_understood_and_named_as_is_the_custom(snapshot: Snapshot) -> None:
    text = metrics.render(snapshot).decode()
    found = families(snapshot)
    assert len(found) == text.count("# TYPE ")
    assert text.endswith("\n")
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            # The rules of promtool check metrics.
            assert name.endswith("_total") == (kind == "counter"), name
            assert re.fullmatch(r"serverd_[a-z_]+", name)
            assert not re.search(r"_(milliseconds|ms|kilobytes|percent)$", name)
    for family in found.values():
        assert family.documentation
        keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(keys) == len(set(keys)), "the same series twice"


def test_what_can_be_known_is_there_from_the_first_scrape_on() -> None:
    first, later = families(EMPTY), families(FULL)
    assert set(first) == set(later)
    assert values(first["serverd_requests"], "code") == dict.fromkeys(metrics.STATUS_CLASSES, 0)
    assert values(first["serverd_child_restarts"], "reason") == dict.fromkeys(metrics.RESTART_REASONS, 0)
    assert values(first["serverd_reloads"], "result") == {"succeeded": 0, "failed": 0}
    assert values(first["serverd_threads"], "state") == dict.fromkeys(
        ("idle", "running", "reading", "writing"), 0
    )


def test_the_numbers_are_those_of_the_snapshot() -> None:
    found = families(FULL)
    assert values(found["serverd_requests"], "code")["2xx"] == 130
    assert values(found["serverd_requests"], "code")["499"] == 2
    assert values(found["serverd_threads"], "state") == {"idle": 4, "running": 1, "reading": 0, "writing": 1}
    assert values(found["serverd_connections"], "state")["idle"] == 6
    assert values(found["serverd_waiting"], "kind") == {"request": 1, "websocket": 2, "event stream": 0}
    assert values(found["serverd_children"], "state")["ready"] == 2
    assert values(found["serverd_children"], "state")["booting"] == 1
    assert values(found["serverd_state"], "state") == {
        "booting": 0, "serving": 0, "reloading": 1, "stopping": 0,
    }  # fmt: skip
    assert values(found["serverd_resident_memory_bytes"], "process") == {
        "master": 300, "admin": 400, "worker 0 g3": 1000, "worker 1 g3": 2000,
    }  # fmt: skip
    assert {(s.labels["child"], s.value) for s in found["serverd_gil_enabled"].samples} == {
        ("0", 0),
        ("1", 1),
    }
    assert values(found["serverd_last_reload_successful"]) == {"": 0}
    assert values(found["serverd_start_time_seconds"]) == {"": 1700000000.25}
    assert found["serverd_build_info"].samples[0].labels["app"] == 'we"ird\\app\n:x'


def test_histograms_are_cumulative_and_end_in_their_count() -> None:
    found = families(FULL)["serverd_request_duration_seconds"]
    buckets = [sample for sample in found.samples if sample.name.endswith("_bucket")]
    assert [float(sample.labels["le"]) for sample in buckets] == [*BOUNDS, float("inf")]
    assert [sample.value for sample in buckets] == [sum(COUNTS[: place + 1]) for place in range(len(COUNTS))]
    rest = {
        sample.name.rpartition("_")[2]: sample.value for sample in found.samples if "le" not in sample.labels
    }
    assert rest == {"sum": 12.5, "count": sum(COUNTS)}


def test_the_status_says_the_same_in_words() -> None:
    found = status.describe(FULL, Verdict(True, "generation 3 serves"))
    assert (found["v"], found["state"], found["generation"], found["booting"]) == (1, "reloading", 3, 4)
    assert found["ready"] == {"ok": True, "reason": "generation 3 serves"}
    assert found["totals"]["requests"] == 136
    first = found["children"][0]
    assert first["name"] == "worker 0 g3"
    assert first["states"] == {"idle": 1, "running": 1, "reading": 0, "writing": 1}
    assert first["threads"] == [
        {"slot": 1, "state": "idle", "home": True},
        {"slot": 2, "state": "running", "method": "GET", "path": "/a", "request": "0.3-2-17", "seconds": 0.5},
        {"slot": 3, "state": "writing", "method": "GET", "path": "/b", "request": "0.3-3-4", "seconds": 3.0},
    ]
    assert first["waiting"] == [{"kind": "websocket", "method": "GET", "path": "/ws", "seconds": 50.0}]
    assert found["last_reload"] == {"ok": False, "reason": "no", "at": 1700000050.0}
