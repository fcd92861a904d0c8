"""The state of the daemon as JSON, for ``/status`` and the page: a ``Snapshot`` in plain words. Pure.

Promises: ``"v": 1`` keeps its keys and their meaning; times are seconds, sizes bytes; a path has no query, which is
often secret.
"""

from __future__ import annotations

from typing import Any, Final

from ..slots import BOUNDS
from .health import Verdict
from .snapshot import Child, Figures, Histogram, Snapshot, Thread, Waiting

VERSION: Final = 1


def describe(snapshot: Snapshot, ready: Verdict) -> dict[str, Any]:
    """Everything that a person or a program may want to know."""
    last = snapshot.last_reload
    return {
        "v": VERSION,
        "at": snapshot.at,
        "state": snapshot.state,
        "ready": {"ok": ready.ok, "reason": ready.reason},
        "app": snapshot.app,
        "config": snapshot.config,
        "version": snapshot.version,
        "python": snapshot.python,
        "mode": snapshot.mode,
        "interface": snapshot.interface,
        "pid": snapshot.pid,
        "started": snapshot.started,
        "generation": snapshot.generation,
        "booting": snapshot.booting,
        "wanted": snapshot.wanted,
        "listeners": list(snapshot.listeners),
        "children": [_child(child, snapshot.now) for child in snapshot.children],
        "totals": _figures(snapshot.figures),
        "reloads": snapshot.reloads,
        "last_reload": None if last is None else {"ok": last.ok, "reason": last.reason, "at": last.at},
        "restarts": snapshot.restarts,
        "lost_threads": snapshot.lost_threads,
        "resident": snapshot.resident,
    }


def _child(child: Child, now: float) -> dict[str, Any]:
    return {
        "name": child.name,
        "index": child.index,
        "generation": child.generation,
        "pid": child.pid,
        "state": child.state,
        "seconds": round(max(0.0, now - child.since), 3),
        "gil": child.gil,
        "resident": child.resident,
        "states": child.states,
        "held": child.held,
        "connections": child.connections,
        "accept_pauses": child.accept_pauses,
        "threads": [_thread(thread, now) for thread in child.threads],
        "waiting": [_waiting(item, now) for item in child.waiting],
    }


def _thread(thread: Thread, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {"slot": thread.slot, "state": thread.state}
    if thread.home:
        found["home"] = True
    if thread.waiting:
        found["waiting"] = thread.waiting
    if thread.since is not None:
        found["method"] = thread.method
        found["path"] = thread.path
        found["request"] = thread.request
        found["seconds"] = round(max(0.0, now - thread.since), 3)
    return found


def _waiting(item: Waiting, now: float) -> dict[str, Any]:
    seconds = round(max(0.0, now - item.since), 3)
    return {"kind": item.kind, "method": item.method, "path": item.path, "seconds": seconds}


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "requests": figures.requests,
        "by_status": figures.by_status,
        "bytes_out": figures.bytes_out,
        "bounds": BOUNDS,
        "latency": _histogram(figures.latency),
        "queue_wait": _histogram(figures.queue_wait),
        "refused": figures.refused,
        "seen_off": figures.seen_off,
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"counts": histogram.counts, "sum": round(histogram.total, 6)}
