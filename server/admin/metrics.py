"""The metrics, as text for Prometheus (exposition format 0.0.4), from a snapshot. Pure.

Promises: every name has HELP and TYPE, base units (seconds, bytes), and ``_total`` on what only grows; a series that
can be known is there from the first scrape on, with 0, so that ``rate`` sees its first step; counters are those of
the daemon, and go on when a child or a generation ends. Refuses: labels whose values a client chooses (paths,
methods).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from ..slots import BOUNDS
from .snapshot import KINDS, STATES, Child, Figures, Histogram, Snapshot

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx", "499")
DAEMON_STATES: Final = ("booting", "serving", "reloading", "stopping")
CHILD_STATES: Final = ("booting", "ready", "failed", "draining", "stopping", "killed")
PHASES: Final = ("idle", "head", "body", "running", "writing", "lingering", "handshake", "preface")
RESTART_REASONS: Final = (
    "crash", "left", "max_requests", "max_lifetime", "max_rss", "max_growth", "watchdog",
)  # fmt: skip

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

type Labels = Mapping[str, str]
type Sample = tuple[Labels, float]


def render(snapshot: Snapshot) -> bytes:
    """All metrics."""
    lines: list[str] = []
    _daemon(lines, snapshot)
    _traffic(lines, snapshot.figures)
    _children(lines, snapshot)
    _history(lines, snapshot)
    return ("\n".join(lines) + "\n").encode()


def _daemon(lines: list[str], snapshot: Snapshot) -> None:
    info = {
        "version": snapshot.version, "python": snapshot.python, "mode": snapshot.mode,
        "interface": snapshot.interface, "app": snapshot.app,
    }  # fmt: skip
    _gauge(lines, "build_info", "What runs here.", [(info, 1)])
    _gauge(lines, "start_time_seconds", "When the master began, since the epoch.", [({}, snapshot.started)])
    states = [({"state": state}, state == snapshot.state) for state in DAEMON_STATES]
    _gauge(lines, "state", "What the daemon is doing: 1 for its state.", states)
    _gauge(lines, "generation", "The generation that serves; 0: none yet.", [({}, snapshot.generation or 0)])


def _traffic(lines: list[str], figures: Figures) -> None:
    by_status = _known(figures.by_status, STATUS_CLASSES, "code")
    _counter(lines, "requests_total", "Requests that have ended, by class of status.", by_status)
    sent: list[Sample] = [({}, figures.bytes_out)]
    _counter(lines, "response_body_bytes_total", "Bytes of response bodies.", sent)
    text = "From a request's head to the end of its response; without websockets and event streams."
    _histogram(lines, "request_duration_seconds", text, figures.latency)
    text = "How long connections with something to do waited for a thread."
    _histogram(lines, "queue_wait_seconds", text, figures.queue_wait)
    text = "Connections closed at once: their address had as many as limits.connections_per_address allows."
    _counter(lines, "connections_refused_total", text, [({}, figures.refused)])
    text = "Idle connections closed for new ones, as there were as many as limits.connections allows."
    _counter(lines, "connections_seen_off_total", text, [({}, figures.seen_off)])


def _children(lines: list[str], snapshot: Snapshot) -> None:
    children = snapshot.children
    counts = Counter(child.state for child in children)
    _gauge(lines, "children", "Child processes, by state.", _known(counts, CHILD_STATES, "state"))
    _gauge(lines, "children_wanted", "Child processes that should serve.", [({}, snapshot.wanted)])
    threads = _summed(child.states for child in children)
    _gauge(lines, "threads", "Worker threads, by what they do.", _known(threads, STATES, "state"))
    held = _known(_summed(child.held for child in children), KINDS, "kind")
    _gauge(lines, "waiting", "What waits in event loops and holds no thread, by kind.", held)
    connections = _known(_summed(child.connections for child in children), PHASES, "state")
    _gauge(lines, "connections", "Open connections, by phase, as the children last counted.", connections)
    pauses = sum(child.accept_pauses for child in children)
    _gauge(lines, "accept_pauses", "How often living children had to stop accepting.", [({}, pauses)])
    gil = [(_names(child), child.gil) for child in children if child.gil is not None]
    _gauge(lines, "gil_enabled", "1: the threads of this child take turns.", gil)
    resident = [({"process": name}, size) for name, size in snapshot.resident.items()]
    resident += [({"process": child.name}, child.resident) for child in children if child.resident]
    _gauge(lines, "resident_memory_bytes", "Memory in use, shared pages included.", resident)


def _history(lines: list[str], snapshot: Snapshot) -> None:
    reloads = _known(snapshot.reloads, ("succeeded", "failed"), "result")
    _counter(lines, "reloads_total", "Reloads that have ended.", reloads)
    last = snapshot.last_reload
    _gauge(
        lines, "last_reload_successful", "1 unless the last reload failed.", [({}, last is None or last.ok)]
    )
    at = 0.0 if last is None else last.at
    text = "When the last reload ended, since the epoch; 0: there was none."
    _gauge(lines, "last_reload_timestamp_seconds", text, [({}, at)])
    restarts = _known(snapshot.restarts, RESTART_REASONS, "reason")
    _counter(lines, "child_restarts_total", "Children that were replaced, outside of reloads.", restarts)
    lost: list[Sample] = [({}, snapshot.lost_threads)]
    _counter(lines, "lost_threads_total", "Threads given up because their request never ended.", lost)


def _summed(numbers: Iterable[Mapping[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for some in numbers:
        found.update(some)
    return found


def _names(child: Child) -> Labels:
    return {"child": str(child.index), "generation": str(child.generation)}


def _known(found: Mapping[str, int], always: Iterable[str], label: str) -> list[Sample]:
    """The numbers by name, those in ``always`` even when they are 0."""
    return [({label: name}, number) for name, number in {**dict.fromkeys(always, 0), **found}.items()]


def _gauge(lines: list[str], name: str, text: str, samples: Iterable[Sample]) -> None:
    _metric(lines, name, "gauge", text, samples)


def _counter(lines: list[str], name: str, text: str, samples: Iterable[Sample]) -> None:
    _metric(lines, name, "counter", text, samples)


def _metric(lines: list[str], name: str, kind: str, text: str, samples: Iterable[Sample]) -> None:
    lines += (f"# HELP serverd_{name} {text}", f"# TYPE serverd_{name} {kind}")
    lines.extend(f"serverd_{name}{_labels(labels)} {_number(value)}" for labels, value in samples)


def _histogram(lines: list[str], name: str, text: str, histogram: Histogram) -> None:
    lines += (f"# HELP serverd_{name} {text}", f"# TYPE serverd_{name} histogram")
    below = 0
    for bound, count in zip((*map(_number, BOUNDS), "+Inf"), histogram.counts, strict=True):
        below += count
        lines.append(f'serverd_{name}_bucket{{le="{bound}"}} {below}')
    lines += (f"serverd_{name}_sum {_number(histogram.total)}", f"serverd_{name}_count {below}")


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    """Whole numbers without a point, all others so that they can be read back exactly."""
    return str(int(value)) if value == int(value) else repr(value)
