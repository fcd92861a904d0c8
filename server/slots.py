"""Where the threads of a child write what they do: a slot for each in shared memory, with no lock and no message.

Promises: each field has one writer; a request costs its thread about a quarter of a microsecond here; a slot that
is handed to the next thread goes on counting where the last one stopped, so that counts never go backwards; without
shared memory (``nowhere``) all of it works and nobody sees it. Refuses to read what others wrote
(``scoreboard``).

How it stays cheap: one 8-byte store is one item of a ``memoryview``; method and path are written only when the request
is another object than the last one, and requests that come again are the same object (``memo``); the number of a
request is not written at all, as it follows from the counts; status class and latency are one table, so that one
count is both.

Threads: a ``Slot`` belongs to its thread, but ``blocked``, which the child's main thread writes. ``take`` and
``give_back``, ``enter`` and ``erase`` of a ``Scores`` are for any thread; ``tell`` belongs to the main thread.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections import deque
from time import monotonic
from typing import Final

from .arena import HEADER, SLOT, SLOTS_AT, WAITER, WAITERS, Papers, Region
from .http.events import RequestReceived

# Upper bounds of the histograms, in seconds; one more bucket takes what is beyond.
BOUNDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
BUCKETS: Final = len(BOUNDS) + 1
_FIRST: Final = BOUNDS[0]

# -- a slot, in items of 8 bytes --------------------------------------------------------------------------------------
# Floats:
SINCE: Final = 0  # the thread is held by a request since then; 0: it is not
BLOCKED: Final = 1  # its event loop has not turned since then; 0: it does. Written by the child's main thread
BUSY: Final = 2  # the sum of all latencies
WAITED: Final = 3  # the sum of all waits in the queue
# Whole numbers:
NATIVE: Final = 4  # the kernel's number of the thread; 0: nobody has the slot
STATE: Final = 5
SENT: Final = 6  # bytes of response bodies
IDENT: Final = 7  # Python's number of the thread
WAITING: Final = 8  # three: requests, websockets and event streams that wait in the thread's loop
STREAMS: Final = 11  # six: websockets and event streams that have ended, by status class
WAITS: Final = 17  # BUCKETS: waits in the queue
ROWS: Final = 33  # six rows of BUCKETS: ended requests by status class and latency
CLASSES: Final = 6  # row 0: cut off, with no complete response (499 in the access log); then 1xx to 5xx
ROLE: Final = ROWS + CLASSES * BUCKETS  # what the thread is
ITEMS: Final = ROLE + 1
# Bytes:
_METHOD_AT: Final = 1040  # 8
_PATH_AT: Final = 1048  # 96
METHOD: Final = slice(_METHOD_AT, _METHOD_AT + 8)
PATH: Final = slice(_PATH_AT, _PATH_AT + 96)
assert ITEMS * 8 <= _METHOD_AT and PATH.stop <= SLOT  # noqa: PT018 - of the layout itself

WORKER, LOOP, MAIN = range(3)  # its role: a SyncWorker, the home loop, the child's main thread

RUNNING: Final = 0  # the application runs, when SINCE is set
READING: Final = 1  # the thread waits for the client's body
WRITING: Final = 2  # it waits for the client to read

# -- the header of a region, in items of 8 bytes ----------------------------------------------------------------------
DUE: Final = 0  # float: the child's main thread looks again by then; 0: it has not begun to
USED: Final = 1  # slots that were ever taken
THREADS: Final = 2  # workers that serve now, stand-ins included
PAUSES: Final = 3  # how often accepting was paused
RESIDENT: Final = 4  # bytes of memory, as last looked at
PHASES: Final = 5  # nine: connections by Phase, as last counted
PHASE_COUNT: Final = 9
REFUSED: Final = PHASES + PHASE_COUNT  # connections of addresses that had as many as they may
SEEN_OFF: Final = REFUSED + 1  # idle connections that were closed because somebody else wanted to come in
HEADER_ITEMS: Final = SEEN_OFF + 1

# -- an entry of the table of waiting requests ------------------------------------------------------------------------
WAITER_FORM: Final = struct.Struct("=dQ8s96s")  # since (0: free), kind, method, path
REQUEST, WEBSOCKET, EVENT_STREAM = range(3)  # its kind

_pack_method = struct.Struct("=8s").pack_into
_pack_path = struct.Struct("=96s").pack_into
_pack_waiter = WAITER_FORM.pack_into


class Slot:
    """What one thread writes. ``times[SINCE]`` is set by ``AppRunner`` directly, for its speed."""

    __slots__ = (
        "_busy",
        "_bytes",
        "_method",
        "_numbers",
        "_rows",
        "_scores",
        "_sent",
        "request",
        "times",
        "waiting",
    )

    def __init__(self, memory: memoryview, scores: Scores) -> None:
        self._bytes = memory
        self._scores = scores
        self._numbers = numbers = memory.cast("Q")
        self.times = memory.cast("d")
        self._method = ""  # that stands there
        self.request: RequestReceived | None = None  # whose method and path stand there
        self.waiting = [0, 0, 0]
        # The counts that stand there already, of the thread that had the slot before.
        self._rows = [numbers[ROWS + place] for place in range(CLASSES * BUCKETS)]
        self._sent = numbers[SENT]
        self._busy = self.times[BUSY]

    def begin(self, request: RequestReceived, since: float) -> None:
        """``request`` holds the thread from now on."""
        self.times[SINCE] = since
        if request is not self.request:
            self.describe(request)

    def describe(self, request: RequestReceived) -> None:
        """Write its method and path. Readers may see half of it: they know that."""
        self.request = request
        method = request.method
        if method is not self._method:  # nearly always GET again
            self._method = method
            _pack_method(self._bytes, _METHOD_AT, method.encode("ascii", "replace"))
        _pack_path(self._bytes, _PATH_AT, request.raw_path)

    def idle(self) -> None:
        """No request holds the thread any more."""
        self.times[SINCE] = 0.0

    def end(self, status: int, size: int, seconds: float) -> None:
        """A response of ``size`` body bytes is complete, or (status 0) was cut off, ``seconds`` after its request."""
        place = status // 100 * BUCKETS
        if seconds > _FIRST:
            place += bisect_left(BOUNDS, seconds)
        rows = self._rows
        rows[place] = count = rows[place] + 1
        self._numbers[ROWS + place] = count
        self._busy = busy = self._busy + seconds
        self.times[BUSY] = busy
        if size:
            self._sent = sent = self._sent + size
            self._numbers[SENT] = sent

    def end_other(self, status: int, size: int) -> None:
        """As ``end``, of what has no latency: a websocket, an event stream, an answer without the application."""
        self._numbers[STREAMS + status // 100] += 1
        self._sent += size
        self._numbers[SENT] = self._sent

    def waited(self, seconds: float, requests: int = 1) -> None:
        """So many requests have waited for ``seconds`` in the queue."""
        self._numbers[WAITS + bisect_left(BOUNDS, seconds)] += requests
        self.times[WAITED] += requests * seconds

    def client_holds(self, state: int) -> None:
        """For which of the client's moves the thread blocks; RUNNING: it goes on, and is held anew."""
        if state == RUNNING:
            self.times[SINCE] = monotonic()
        self._numbers[STATE] = state

    def wait(self, request: RequestReceived, since: float, kind: int) -> int:
        """One exchange more waits in the thread's loop; its entry, for ``wait_no_more``."""
        self.waiting[kind] += 1
        self._numbers[WAITING + kind] = self.waiting[kind]
        return self._scores.enter(request, since, kind)

    def wait_no_more(self, entry: int, kind: int) -> None:
        """One less."""
        self.waiting[kind] -= 1
        self._numbers[WAITING + kind] = self.waiting[kind]
        self._scores.erase(entry)

    def enter(self, role: int = WORKER) -> None:
        """The calling thread has the slot from now on."""
        self._numbers[ROLE] = role
        self._numbers[STATE] = RUNNING
        self._numbers[IDENT] = threading.get_ident()
        self._numbers[NATIVE] = threading.get_native_id()

    def leave(self) -> None:
        """It has it no more; the counts stay."""
        self.times[SINCE] = self.times[BLOCKED] = 0.0
        for kind in range(len(self.waiting)):
            self._numbers[WAITING + kind] = 0
        self._numbers[NATIVE] = 0

    def blocked(self, since: float) -> None:
        """For the child's main thread: the loop of this thread stands still since then; 0: it turns."""
        self.times[BLOCKED] = since

    @property
    def is_blocked(self) -> bool:
        """What ``blocked`` has said."""
        return bool(self.times[BLOCKED])

    @property
    def held_since(self) -> float:
        """When the request that holds the thread began; 0: none does. Any thread."""
        return self.times[SINCE]


def nowhere() -> Slot:
    """A slot that nobody sees, for a thread that has none."""
    return Slot(memoryview(bytearray(SLOT)), Scores())


class Scores:
    """All that one child writes. See the module."""

    def __init__(self, memory: memoryview | None = None, slots: int = 0) -> None:
        self._memory = memory
        self._numbers = (
            memory[:HEADER].cast("Q") if memory is not None else memoryview(bytearray(HEADER)).cast("Q")
        )
        self._times = self._numbers.cast("B").cast("d")
        self._free = deque(range(slots))  # the oldest first: a slot is used again as late as possible
        self._places: dict[int, int] = {}  # of the slots that are taken, by id
        self._changing = threading.Lock()
        # Entries of the table of waiting requests. A deque's operations are atomic.
        self._entries = deque(range(WAITERS if memory is not None else 0))

    @classmethod
    def open(cls, fd: int, region: Region) -> Scores:
        """Map ``region`` of the arena whose descriptor is ``fd``, and no more of it. Raises OSError."""
        # Not with a descriptor of its own, by which the application would have the memory of all the others too.
        mapped = mmap.mmap(fd, region.length, offset=region.offset, trackfd=False)
        return cls(memoryview(mapped), region.slots)

    def take(self) -> Slot:
        """A slot for one more thread, which goes on with the counts of the last one; one that nobody sees when all are
        taken."""
        with self._changing:
            if self._memory is None or not self._free:
                return nowhere()
            place = self._free.popleft()
            at = SLOTS_AT + place * SLOT
            slot = Slot(self._memory[at : at + SLOT], self)
            self._places[id(slot)] = place
            self._numbers[USED] = max(self._numbers[USED], place + 1)
            return slot

    def give_back(self, slot: Slot) -> None:
        """Its thread has ended."""
        with self._changing:
            place = self._places.pop(id(slot), None)
            if place is not None:
                slot.leave()
                self._free.append(place)

    def enter(self, request: RequestReceived, since: float, kind: int) -> int:
        """Write a request that waits in a loop into the table; the entry, or -1 when it is full."""
        if self._memory is None:
            return -1
        try:
            entry = self._entries.popleft()
        except IndexError:
            return -1
        method = request.method.encode("ascii", "replace")
        _pack_waiter(self._memory, HEADER + entry * WAITER, since, kind, method, request.raw_path)
        return entry

    def erase(self, entry: int) -> None:
        """Take it out again."""
        if entry >= 0 and self._memory is not None:
            at = HEADER + entry * WAITER
            self._memory[at : at + 8] = bytes(8)
            self._entries.append(entry)

    def tell(self, due: float) -> None:
        """When the child's main thread looks again, at the latest."""
        self._times[DUE] = due

    def refused(self, number: int) -> None:
        """How many connections were refused for their address so far. Any thread, one at a time."""
        self._numbers[REFUSED] = number

    def count(self, threads: int, pauses: int, resident: int, phases: list[int], seen_off: int = 0) -> None:
        """How many workers there are, pauses in accepting, bytes of memory, connections in each phase, and idle ones
        that had to go."""
        self._numbers[THREADS] = threads
        self._numbers[RESIDENT] = resident
        self._numbers[PAUSES] = pauses
        self._numbers[SEEN_OFF] = seen_off
        for phase, number in enumerate(phases):
            self._numbers[PHASES + phase] = number


def inherited(papers: Papers) -> Scores:
    """The scores of a child; its descriptor of the arena is closed. Raises OSError."""
    if papers.memory < 0:
        return Scores()
    try:
        return Scores() if papers.region is None else Scores.open(papers.memory, papers.region)
    finally:
        os.close(papers.memory)
