"""The answer to `serverd status`: what the admin plane's `/status` says, from the same facts and the same memory.

Promises: the same keys as `/status`, without its verdict on readiness, and for each child its requests so far. It is
there without the admin plane too, and without shared memory (then with no threads and no requests).
"""

from __future__ import annotations

import time
from typing import Any

from ..server.admin.health import Verdict
from ..server.admin.reading import snapshot
from ..server.admin.status import describe
from ..server.scoreboard import ChildView, Region
from .board import Board


def status(facts: dict[str, Any], board: Board) -> dict[str, Any]:
    """`facts`: as they are published. `board`: where the children's own numbers can be read."""
    views = {
        child["offset"]: view for child in facts["children"] if (view := _view(child, board)) is not None
    }
    totals = sum((view.totals for view in views.values()), board.totals)
    found = describe(
        snapshot(facts, views, totals, time.monotonic(), time.time()), Verdict(ok=True, reason="")
    )
    del (
        found["ready"],
        found["resident"]["admin"],
    )  # the first needs history, the second is measured over there
    for child, fact in zip(found["children"], facts["children"], strict=True):
        view = views.get(fact["offset"])
        child["requests"] = 0 if view is None else view.totals.requests
    return found


def _view(child: dict[str, Any], board: Board) -> ChildView | None:
    return board.look(Region(child["offset"], child["slots"])) if child["slots"] else None
