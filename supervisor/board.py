"""The master's facts on one page in the arena, for the admin plane and whoever else reads: who is there, and what was.

Promises: what is read is one whole page, never half of two (a sequence number and a checksum; readers try again);
totals never go backwards for who reads with ``read_counts``: what a child has counted is added to the totals of the
ended before its region can be given to another. Refuses: to decide.

``Board`` belongs to the master's only thread; ``read_board`` and ``read_counts`` are for any process.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

from ..server.scoreboard import Arena, ChildView, Region, Totals, read_child

# (sequence number, length, checksum); the JSON follows.
_HEAD: Final = struct.Struct("=QII")
_MOST: Final = 1024 * 1024 - _HEAD.size
# A reader that meets a change tries again; the master changes its page a few times a second at the very most.
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Counts:
    """The facts, and what each of their children has counted, at one moment. ``views`` are by the child's name."""

    facts: dict[str, Any]
    views: dict[str, ChildView]
    totals: Totals  # of all children, those that have ended too


class Board:
    """The page's writer. See the module."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._sequence = 0
        self._last = b""
        self._ended: list[Region] = []
        self.totals = Totals()  # of children that have ended

    def fold(self, region: Region) -> ChildView | None:
        """The child of ``region`` has ended: keep what it has counted; what it last wrote, if it can be read.

        The region is free once the page no longer names it.
        """
        self._ended.append(region)
        try:
            view = read_child(self._arena, region)
        except OSError:
            return None
        self.totals += view.totals
        return view

    def publish(self, facts: dict[str, Any]) -> None:
        """Write the page if it has changed. Raises OSError."""
        text = json.dumps({**facts, "totals": self.totals.as_json()}, separators=(",", ":")).encode()
        if len(text) > _MOST:
            text = json.dumps({**facts, "children": [], "totals": self.totals.as_json()}).encode()
        if text != self._last:
            self._last = text
            self._sequence += 1
            self._arena.write(0, _HEAD.pack(self._sequence, len(text), zlib.crc32(text)) + text)
        for region in self._ended:
            self._arena.release(region)
        self._ended.clear()


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
        child["name"]: read_child(arena, Region(child["offset"], child["slots"]))
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
        text = arena.read(_HEAD.size, min(length, _MOST))
        if zlib.crc32(text) == checksum:
            facts = json.loads(text)
            assert isinstance(facts, dict)
            return sequence, facts
    return None
