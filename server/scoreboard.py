"""What the children do, read from the shared memory that they write: for the master, the admin plane and the commands.

Promises: a reader disturbs nobody and never fails on what it finds, not even on what a broken child has scribbled
there; counts of one slot only grow, and ``Totals`` of a child that has ended are kept by the master (``board``). Values
that belong together may be one request apart, as nothing is locked. Refuses: to decide what is wrong (``watchdog``,
``health``).

Everything here is plain data, made anew for each look: any thread, any process.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from . import slots as layout
from .arena import HEADER, NO_PAPERS, SLOT, SLOTS_AT, WAITER, WAITERS, Arena, Papers, Region
from .slots import BOUNDS, BUCKETS, CLASSES

__all__ = [
    "BOUNDS",
    "NO_PAPERS",
    "Arena",
    "ChildView",
    "Papers",
    "Region",
    "SlotView",
    "Totals",
    "Waiting",
    "read_child",
]

_NUMBERS: Final = struct.Struct(f"={layout.ITEMS}Q")
_TIMES: Final = struct.Struct("=4d")
_HEADER_NUMBERS: Final = struct.Struct(f"={layout.HEADER_ITEMS}Q")
_HEADER_TIMES: Final = struct.Struct("=d")
_STATES: Final = {layout.RUNNING: "running", layout.READING: "reading", layout.WRITING: "writing"}
_ROLES: Final = {layout.LOOP: "loop", layout.MAIN: "main"}
_KINDS: Final = ("request", "websocket", "event stream")
_MOST_SECONDS: Final = 1e18
_NO_COUNTS: Final = (0,) * BUCKETS
_NO_STREAMS: Final = (0,) * CLASSES


def _none() -> tuple[tuple[int, ...], ...]:
    return (_NO_COUNTS,) * CLASSES


@dataclass(frozen=True, slots=True)
class Totals:
    """What any number of slots, and of children, have counted, together. Addable; ``as_json`` and ``from_json`` for the
    board."""

    rows: tuple[tuple[int, ...], ...] = field(
        default_factory=_none
    )  # by status class (0: cut off), by latency
    streams: tuple[int, ...] = _NO_STREAMS  # ended websockets and event streams, by status class
    seconds: float = 0.0  # the sum of the latencies in `rows`
    sent: int = 0  # bytes of response bodies
    waits: tuple[int, ...] = _NO_COUNTS  # waits in the queue
    waited: float = 0.0  # their sum
    refused: int = 0  # connections that were closed at once, as their address had as many as it may
    seen_off: int = 0  # idle connections that were closed because somebody else wanted to come in

    @property
    def requests(self) -> int:
        """All that have ended, however they ended."""
        return sum(map(sum, self.rows)) + sum(self.streams)

    @property
    def by_class(self) -> dict[str, int]:
        """Ended requests by ``1xx`` to ``5xx``, and ``cut``: those whose client left, or that were cut off."""
        names = ("cut", "1xx", "2xx", "3xx", "4xx", "5xx")
        return {
            name: sum(row) + ended for name, row, ended in zip(names, self.rows, self.streams, strict=True)
        }

    @property
    def latency(self) -> tuple[int, ...]:
        """Ended requests by latency: for each of BOUNDS those at or below it and above the one before, then the
        rest. Without websockets and event streams."""
        return tuple(map(sum, zip(*self.rows, strict=True)))

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            tuple(_sum(mine, theirs) for mine, theirs in zip(self.rows, other.rows, strict=True)),
            _sum(self.streams, other.streams),
            self.seconds + other.seconds,
            self.sent + other.sent,
            _sum(self.waits, other.waits),
            self.waited + other.waited,
            self.refused + other.refused,
            self.seen_off + other.seen_off,
        )

    def as_json(self) -> dict[str, Any]:
        """In plain types."""
        return {
            "rows": [list(row) for row in self.rows],
            "streams": list(self.streams),
            "seconds": self.seconds,
            "sent": self.sent,
            "waits": list(self.waits),
            "waited": self.waited,
            "refused": self.refused,
            "seen_off": self.seen_off,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Totals:
        """Raises KeyError, TypeError or ValueError for what ``as_json`` has not made."""
        rows = tuple(tuple(map(int, row)) for row in raw["rows"])
        streams, waits = tuple(map(int, raw["streams"])), tuple(map(int, raw["waits"]))
        if {len(row) for row in rows} != {BUCKETS} or (len(rows), len(streams), len(waits)) != (
            CLASSES,
            CLASSES,
            BUCKETS,
        ):
            raise ValueError("totals of another layout")
        return cls(
            rows,
            streams,
            float(raw["seconds"]),
            int(raw["sent"]),
            waits,
            float(raw["waited"]),
            int(raw["refused"]),
            int(raw["seen_off"]),
        )


@dataclass(frozen=True, slots=True)
class SlotView:
    """One thread. Times are ``time.monotonic()`` seconds, the same clock in all processes."""

    place: int  # among the slots of its child
    state: str  # idle, running, reading, writing (the thread waits for its client), gone
    method: str  # of the request that holds it, or the last one that did
    path: str  # the first 96 bytes, as sent
    since: float | None  # the request that holds the thread began then
    blocked: float | None  # its event loop stands still since then
    role: str  # worker, loop (the home loop), main (the child's main thread)
    native_id: int  # the kernel's number of the thread; 0: nobody has the slot
    ident: int  # Python's
    waiting: int  # requests that wait in its event loop
    websockets: int
    event_streams: int
    totals: Totals

    @property
    def number(self) -> int:
        """Of the request that holds it, or that will: counted in this slot, from 1 on."""
        return self.totals.requests + 1

    def held(self, now: float) -> float:
        """Seconds for which a request has held this thread, or its loop has not turned; 0.0: it is free."""
        starts = [at for at in (self.since, self.blocked) if at is not None]
        return max(0.0, now - min(starts)) if starts else 0.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits in an event loop, and holds no thread."""

    kind: str  # request, websocket, event stream
    method: str
    path: str
    since: float


@dataclass(frozen=True, slots=True)
class ChildView:
    """One child. ``slots`` are those that were ever used."""

    due: float | None  # its main thread looks again by then; None: it has not begun to
    threads: int  # workers that serve (0 in ``mode: async``, and until it is ready)
    pauses: int  # how often accepting was paused
    resident: int  # bytes of memory, as last looked at
    phases: tuple[int, ...]  # connections by phase (``server.phases.Phase``), as last counted
    slots: tuple[SlotView, ...]
    waiting: tuple[Waiting, ...]  # at most 64 of them; the slots have the numbers
    refused: int = 0  # see Totals
    seen_off: int = 0

    @property
    def totals(self) -> Totals:
        """All slots together, and what the child has counted."""
        own = Totals(refused=self.refused, seen_off=self.seen_off)
        return sum((slot.totals for slot in self.slots), own)

    @property
    def busy(self) -> int:
        """Threads that a request holds now."""
        return sum(slot.since is not None for slot in self.slots)

    @property
    def open_requests(self) -> int:
        """Requests under way: those that hold a thread, and those that wait in a loop."""
        return self.busy + sum(slot.waiting for slot in self.slots)

    def request_id(self, name: str, slot: SlotView) -> str:
        """``0.3-2-1041``: child index, generation, slot, and the number of the request in it. ``name``: "0.3"."""
        return f"{name}-{slot.place}-{slot.number}"


EMPTY: Final = ChildView(None, 0, 0, 0, (0,) * layout.PHASE_COUNT, (), ())


def read_child(arena: Arena, region: Region) -> ChildView:
    """What the child of ``region`` has written. Raises OSError when the memory cannot be read."""
    header = arena.read(region.offset, HEADER)
    numbers = _HEADER_NUMBERS.unpack_from(header)
    used = min(numbers[layout.USED], region.slots)
    rest = arena.read(region.offset + HEADER, SLOTS_AT - HEADER + used * SLOT) if used else b""
    return ChildView(
        due=_time(_HEADER_TIMES.unpack_from(header)[0]),
        threads=numbers[layout.THREADS],
        pauses=numbers[layout.PAUSES],
        resident=numbers[layout.RESIDENT],
        phases=numbers[layout.PHASES : layout.PHASES + layout.PHASE_COUNT],
        slots=tuple(_slot(rest, place, SLOTS_AT - HEADER + place * SLOT) for place in range(used)),
        waiting=tuple(_waiting(rest)),
        refused=numbers[layout.REFUSED],
        seen_off=numbers[layout.SEEN_OFF],
    )


def _slot(data: bytes, place: int, at: int) -> SlotView:
    numbers = _NUMBERS.unpack_from(data, at)
    since, blocked, busy, waited = _TIMES.unpack_from(data, at)
    held = _time(since)
    native = numbers[layout.NATIVE]
    state = (
        "gone" if not native else "idle" if held is None else _STATES.get(numbers[layout.STATE], "running")
    )
    rows = tuple(numbers[start : start + BUCKETS] for start in range(layout.ROWS, layout.ROLE, BUCKETS))
    return SlotView(
        place=place,
        state=state,
        method=_text(data[at + layout.METHOD.start : at + layout.METHOD.stop]),
        path=_text(data[at + layout.PATH.start : at + layout.PATH.stop]),
        since=held,
        blocked=_time(blocked),
        role=_ROLES.get(numbers[layout.ROLE], "worker"),
        native_id=native,
        ident=numbers[layout.IDENT],
        waiting=numbers[layout.WAITING],
        websockets=numbers[layout.WAITING + layout.WEBSOCKET],
        event_streams=numbers[layout.WAITING + layout.EVENT_STREAM],
        totals=Totals(
            rows,
            numbers[layout.STREAMS : layout.STREAMS + CLASSES],
            _sane(busy),
            numbers[layout.SENT],
            numbers[layout.WAITS : layout.WAITS + BUCKETS],
            _sane(waited),
        ),
    )


def _waiting(data: bytes) -> Iterator[Waiting]:
    for entry in range(WAITERS if data else 0):
        since, kind, method, path = layout.WAITER_FORM.unpack_from(data, entry * WAITER)
        if _time(since) is not None:
            yield Waiting(_KINDS[kind if kind < len(_KINDS) else 0], _text(method), _text(path), since)


def _time(value: float) -> float | None:
    """A time that was written, or None."""
    return value if value > 0 and math.isfinite(value) else None


def _sane(value: float) -> float:
    """A sum of seconds, or 0.0 for what is none; those of many children have to stay finite."""
    return value if 0 <= value < _MOST_SECONDS else 0.0


def _text(raw: bytes) -> str:
    """Up to the first NUL; what is not ASCII is escaped, so that no reader's terminal or log is harmed."""
    return "".join(chr(byte) if 0x20 < byte < 0x7F else f"\\x{byte:02x}" for byte in raw.split(b"\0", 1)[0])


def _sum(mine: Sequence[int], theirs: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(mine, theirs, strict=True))
