"""What the master publishes of itself: plain data for the board, the admin plane and the control socket.

Promises: the same facts give the same data, so that the board is written only when something has changed. Pure.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from .. import __version__
from ..config import ServerConfig
from .roster import Child, Roster

# Of the layout below; a reader refuses another.
VERSION: Final = 1
# Why a child was replaced; more come to be as children give other reasons.
_REASONS: Final = ("crash", "left", "watchdog", "max_requests", "max_lifetime", "max_rss", "max_growth")


@dataclass(slots=True)
class History:
    """What the master remembers beside its roster."""

    pid: int
    started: float  # on the wall's clock
    lost_threads: int = 0  # threads that never came back from a request, in children that had to be replaced


def gather(
    roster: Roster,
    config: ServerConfig,
    history: History,
    listeners: list[str],
    reloads: tuple[int, int, tuple[bool, str, float] | None],
) -> dict[str, Any]:
    """The facts. `reloads`: succeeded, failed, and how the last one ended."""
    succeeded, failed, last = reloads
    serving = roster.current or roster.booting
    return {
        "v": VERSION,
        "pid": history.pid,
        "version": __version__,
        "started": history.started,
        "app": config.app,
        "config": None if config.source is None else str(config.source),
        "python": _python(),
        "state": _state(roster),
        "lame_duck": roster.lame_until is not None,
        "wanted": serving.wanted if serving is not None else 0,
        "mode": config.workers.mode,
        "interface": config.interface,
        "generation": roster.current.number if roster.current is not None else None,
        "booting": roster.booting.number if roster.booting is not None else None,
        "listeners": listeners,
        "children": [_child(child) for child in roster.children],
        "templates": [
            {"name": item.name, "pid": item.pid, "state": item.phase.value} for item in roster.templates
        ],
        "reloads": {"succeeded": succeeded, "failed": failed},
        "last_reload": None if last is None else {"ok": last[0], "reason": last[1], "at": last[2]},
        "restarts": {**dict.fromkeys(_REASONS, 0), **roster.restarts},
        "lost_threads": history.lost_threads,
    }


def _child(child: Child) -> dict[str, Any]:
    region = child.papers.region
    return {
        "name": child.name,
        "index": child.index,
        "generation": child.generation,
        "pid": child.pid,
        "state": child.state.value,
        "since": child.since,
        "threads": child.threads,
        "gil": child.gil,
        "ready_at": child.ready_at,
        "worn": child.worn,
        "offset": region.offset if region is not None else 0,
        "slots": region.slots if region is not None else 0,
    }


def _state(roster: Roster) -> str:
    if roster.shutdown is not None and roster.shutdown.handed_over:
        return "handed over"
    if roster.stopping:
        return "stopping"
    if roster.current is None:
        return "booting"
    return "reloading" if roster.booting is not None else "serving"


def _python() -> str:
    threaded = "t" if "t" in sys.abiflags else ""
    return ".".join(map(str, sys.version_info[:3])) + threaded
