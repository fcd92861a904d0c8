"""What a child was doing when it died: from the scoreboard and the file of its last words, which outlive it.

Promises: every request that it held is named, up to a number, with its age and the thread that it held; what
Python's faulthandler wrote about a fatal signal is given as it is. Pure: facts in, lines for the log out. Refuses
to guess: what is not known is not said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..server.scoreboard import ChildView, SlotView

# A child that holds hundreds is told of in one screen.
MOST_REQUESTS: Final = 20
# What faulthandler writes of 100 frames is less.
MOST_WORDS: Final = 16 * 1024


def report(view: ChildView | None, words: str, now: float) -> list[str]:
    """The lines, without the name of the child."""
    lines = []
    if view is not None:
        held = list(_held(view, now))
        if held:
            lines.append(f"held {_count(view, len(held))}: {'; '.join(held[:MOST_REQUESTS])}{_more(held)}")
        if view.resident:
            lines.append(f"had {view.resident >> 20} MiB of memory when it was last looked at")
    if text := words.strip():
        lines.append(f"left these last words:\n{text}")
    return lines


def _held(view: ChildView, now: float) -> Iterator[str]:
    for slot in view.slots:
        if slot.since is not None:
            yield f"{slot.method} {slot.path} ({_age(now - slot.since)}, {_where(slot)})"
    for one in view.waiting:
        kind = "" if one.kind == "request" else f"{one.kind}, "
        yield f"{one.method} {one.path} ({kind}{_age(now - one.since)}, waiting in an event loop)"


def _where(slot: SlotView) -> str:
    doing = {"reading": ", waiting for its client's body", "writing": ", waiting for its client to read"}
    return (
        f"{'the home loop' if slot.role == 'loop' else f'thread {slot.native_id}'}{doing.get(slot.state, '')}"
    )


def _count(view: ChildView, named: int) -> str:
    """All that it held: the table of those that wait may have been too small."""
    known = view.busy + sum(slot.waiting + slot.websockets + slot.event_streams for slot in view.slots)
    number = max(known, named)
    return f"{number} request{'s' * (number != 1)}"


def _more(held: list[str]) -> str:
    return "; and more" if len(held) > MOST_REQUESTS else ""


def _age(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f} s"
