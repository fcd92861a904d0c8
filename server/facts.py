"""The master's facts on one page in the arena: the master writes it (``supervisor.board``), everybody else reads.

Promises: what is read is one whole page, never half of two (a sequence number and a checksum; readers try again);
totals never go backwards for who reads with ``read_counts``: what a child has counted is added to the totals of the
ended before its region can be given to another. Refuses: to say what the facts are (supervisor/board.py has the list).

For any process and thread.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from .arena import BOARD
from .scoreboard import Arena, ChildView, Region, Totals, read_child

# (sequence number, length, checksum); the JSON follows.
_HEAD: Final = struct.Struct("=QII")
MOST_PAGE: Final = BOARD - _HEAD.size
# A reader that meets a change tries again; the master changes its page a few times a second at the very most.
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Counts:
    """The facts, and what each of their children has counted, at one moment. ``views``: by the ``offset`` of the child
    in the facts (a successor has the name of the one that it replaces)."""

    facts: dict[str, Any]
    views: dict[int, ChildView]
    totals: Totals  # of all children, those that have ended too


def write_page(arena: Arena, sequence: int, text: bytes) -> None:
    """Put ``text`` (JSON, at most ``MOST_PAGE`` bytes) onto the page; ``sequence`` grows each time. Raises OSError."""
    arena.write(0, _HEAD.pack(sequence, len(text), zlib.crc32(text)) + text)


def read_board(arena: Arena) -> dict[str, Any] | None:
    """The facts; None when there are none yet. Raises OSError."""
    page = _read_page(arena)
    return None if page is None else page[1]


def read_counts(arena: Arena) -> Counts | None:
    """The facts with what the children have counted, of one moment; None when there are none yet. Raises OSError."""
    counts = None
    for _ in range(_TRIES):
        page = _read_page(arena)
        if page is None:
            return None
        sequence, facts = page
        counts = _counted(arena, facts)
        if _HEAD.unpack(arena.read(0, _HEAD.size))[0] == sequence:
            break  # nobody has ended meanwhile, so no region has changed hands
    return counts


def _counted(arena: Arena, facts: dict[str, Any]) -> Counts:
    views = {
        child["offset"]: read_child(arena, Region(child["offset"], child["slots"]))
        for child in facts["children"]
        if child["slots"]
    }
    totals = sum((view.totals for view in views.values()), Totals.from_json(facts["totals"]))
    return Counts(facts, views, totals)


def _read_page(arena: Arena) -> tuple[int, dict[str, Any]] | None:
    for _ in range(_TRIES):
        sequence, length, checksum = _HEAD.unpack(arena.read(0, _HEAD.size))
        if not sequence:
            return None
        text = arena.read(_HEAD.size, min(length, MOST_PAGE))
        if zlib.crc32(text) == checksum:
            facts = json.loads(text)
            assert isinstance(facts, dict)
            return sequence, facts
    return None
