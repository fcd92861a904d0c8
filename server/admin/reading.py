"""From what stands in the shared memory (the master's facts, the children's slots) to a ``Snapshot``.

Promises: a look never fails: what cannot be read is said once, and counts as nothing there; facts that are missing
take their defaults; a slot that nobody has is left out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from ..facts import read_counts
from ..phases import NAMES
from ..scoreboard import EMPTY, Arena, ChildView, SlotView, Totals
from ..wear import resident
from .snapshot import KINDS, Child, Figures, Histogram, Reload, Snapshot, Thread, Waiting

logger = logging.getLogger("serverd.admin")


class Reader:
    """Takes snapshots of the daemon whose memory ``arena`` is. For one thread."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._complained = False

    def __call__(self) -> Snapshot | None:
        """The daemon now; None while the master has published nothing that can be read."""
        try:
            counts = read_counts(self._arena)
            if counts is None:
                return None
            return snapshot(counts.facts, counts.views, counts.totals, time.monotonic(), time.time())
        except OSError, ValueError, LookupError, TypeError:
            if not self._complained:
                self._complained = True
                logger.exception("the shared memory cannot be read; there is nothing to show")
            return None


def snapshot(
    facts: Mapping[str, Any], views: Mapping[int, ChildView], totals: Totals, now: float, at: float
) -> Snapshot:
    """``facts``: what the board says. ``views``: by the child's offset. ``totals``: of all children that ever were.
    ``now`` is monotonic, ``at`` in seconds since the epoch."""
    last = facts.get("last_reload")
    pid = int(facts["pid"])
    # 0 where /proc does not show the processes of others (ProtectProc= of a unit).
    memory = {"master": resident(pid), "admin": resident(os.getpid()), **_templates(facts)}
    return Snapshot(
        now=now,
        at=at,
        state=facts["state"],
        started=float(facts["started"]),
        pid=pid,
        version=facts.get("version", ""),
        app=facts.get("app", ""),
        config=facts.get("config"),
        python=facts.get("python", ""),
        mode=facts.get("mode", "sync"),
        interface=facts.get("interface", "auto"),
        lame_duck=bool(facts.get("lame_duck")),
        wanted=int(facts.get("wanted", 0)),
        generation=facts.get("generation"),
        booting=facts.get("booting"),
        listeners=tuple(facts.get("listeners", ())),
        children=tuple(_child(child, views.get(child["offset"])) for child in facts.get("children", ())),
        figures=_figures(totals),
        reloads=dict(facts.get("reloads", {})),
        last_reload=None if last is None else Reload(bool(last["ok"]), str(last["reason"]), last["at"]),
        restarts=dict(facts.get("restarts", {})),
        lost_threads=int(facts.get("lost_threads", 0)),
        resident={name: size for name, size in memory.items() if size},
    )


def _templates(facts: Mapping[str, Any]) -> dict[str, int]:
    """The memory of the processes from which children are forked, if there are any."""
    found = facts.get("templates", ())
    return {"template": sum(resident(item["pid"]) for item in found)} if found else {}


def _child(facts: Mapping[str, Any], view: ChildView | None) -> Child:
    if view is None:
        view = EMPTY
    # The main thread answers requests that are too broken or too late for anybody else, and none that takes long.
    slots = [slot for slot in view.slots if slot.state != "gone" and slot.role != "main"]
    name = f"{facts['index']}.{facts['generation']}"
    return Child(
        index=facts["index"],
        generation=facts["generation"],
        pid=facts["pid"],
        state=facts["state"],
        since=facts["since"],
        gil=facts.get("gil"),
        resident=resident(facts["pid"]),
        workers=view.threads,
        threads=tuple(_thread(slot, view.request_id(name, slot)) for slot in slots),
        waiting=tuple(Waiting(item.kind, item.method, item.path, item.since) for item in view.waiting),
        held=_held(slots),
        connections=_connections(view),
        accept_pauses=view.pauses,
    )


def _thread(slot: SlotView, request: str) -> Thread:
    home = slot.role == "loop"
    waiting = slot.waiting + slot.websockets + slot.event_streams
    if slot.since is None:
        return Thread(slot.place, slot.state, home=home, waiting=waiting)
    return Thread(slot.place, slot.state, slot.method, slot.path, request, slot.since, home, waiting)


def _held(slots: list[SlotView]) -> dict[str, int]:
    numbers = (
        sum(slot.waiting for slot in slots),
        sum(slot.websockets for slot in slots),
        sum(slot.event_streams for slot in slots),
    )
    return dict(zip(KINDS, numbers, strict=True))


def _connections(view: ChildView) -> dict[str, int]:
    return {name.lower(): number for name, number in zip(NAMES, view.phases, strict=True) if name != "CLOSED"}


def _figures(totals: Totals) -> Figures:
    by_status = {("499" if name == "cut" else name): number for name, number in totals.by_class.items()}
    return Figures(
        requests=totals.requests,
        by_status=by_status,
        bytes_out=totals.sent,
        latency=Histogram(totals.latency, totals.seconds),
        queue_wait=Histogram(totals.waits, totals.waited),
        refused=totals.refused,
        seen_off=totals.seen_off,
    )
