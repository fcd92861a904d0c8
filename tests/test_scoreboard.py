"""The scoreboard: what a thread writes is what readers see, whoever reads and whatever has become of the thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from serverd.server import slots as layout
from serverd.server.arena import BOARD, HEADER, PAGE, SIZE, SLOT, SLOTS_AT, Arena, Papers, Region
from serverd.server.http.events import RequestReceived
from serverd.server.phases import Phase
from serverd.server.scoreboard import BOUNDS, Totals, read_child
from serverd.server.slots import Scores, inherited, nowhere


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create()
    yield arena
    arena.close()


def request(method: str = "GET", path: bytes = b"/notes") -> RequestReceived:
    return RequestReceived(method, path, path, b"", "1.1", [])


def child(arena: Arena, slots: int = 4) -> tuple[Scores, Region]:
    region = arena.allot(slots)
    assert region is not None
    return Scores.open(arena.fd, region), region


# -- the memory --------------------------------------------------------------------------------------------------------


def test_regions_are_whole_pages_behind_the_board_and_do_not_overlap(arena: Arena) -> None:
    regions = [arena.allot(slots) for slots in (1, 7, 130)]
    end = BOARD
    for region in regions:
        assert region is not None
        assert region.offset == end
        assert region.offset % PAGE == region.length % PAGE == 0
        assert region.length >= SLOTS_AT + region.slots * SLOT
        end = region.offset + region.length


def test_a_region_that_was_released_is_given_again_and_is_zero(arena: Arena) -> None:
    scores, first = child(arena)
    scores.take().end(200, 5, 0.1)
    assert read_child(arena, first).totals.requests == 1
    second = arena.allot(4)
    arena.release(first)
    assert arena.allot(4) == first
    assert read_child(arena, first).totals == Totals()
    assert second is not None


def test_a_small_gap_is_passed_over(arena: Arena) -> None:
    first, second = arena.allot(1), arena.allot(1)
    assert first is not None
    assert second is not None
    arena.release(first)
    large = arena.allot(200)
    assert large is not None
    assert large.offset > second.offset
    assert arena.allot(1) == first


def test_a_full_arena_gives_nothing(arena: Arena) -> None:
    assert arena.allot((SIZE - BOARD) // SLOT + 1) is None


def test_untouched_memory_costs_nothing(arena: Arena) -> None:
    region = arena.allot(100_000)
    assert region is not None
    arena.read(region.offset, region.length)
    assert os.fstat(arena.fd).st_blocks == 0


# -- what a thread writes ----------------------------------------------------------------------------------------------


def test_a_request_is_seen_while_it_holds_the_thread(arena: Arena) -> None:
    scores, region = child(arena)
    slot = scores.take()
    slot.enter()
    since = monotonic()
    slot.begin(request("DELETE", b"/notes/12"), since)
    (seen,) = read_child(arena, region).slots
    assert (seen.state, seen.method, seen.path, seen.since) == ("running", "DELETE", "/notes/12", since)
    assert (seen.native_id, seen.ident, seen.number) == (threading.get_native_id(), threading.get_ident(), 1)
    assert seen.held(since + 2.5) == pytest.approx(2.5)
    slot.end(204, 0, 0.25)
    slot.idle()
    (seen,) = read_child(arena, region).slots
    assert (seen.state, seen.since, seen.number, seen.held(since)) == ("idle", None, 2, 0.0)
    slot.leave()
    assert read_child(arena, region).slots[0].state == "gone"


@pytest.mark.parametrize(("state", "word"), [(layout.READING, "reading"), (layout.WRITING, "writing")])
def test_whom_a_thread_waits_for(arena: Arena, state: int, word: str) -> None:
    scores, region = child(arena)
    slot = scores.take()
    slot.enter()
    slot.begin(request(), 1.0)
    slot.client_holds(state)
    (seen,) = read_child(arena, region).slots
    assert (seen.state, seen.since) == (word, 1.0)
    before = monotonic()
    slot.client_holds(layout.RUNNING)
    (seen,) = read_child(arena, region).slots
    assert seen.state == "running"
    assert seen.since is not None
    assert seen.since >= before, "from now on the application holds it"


def test_paths_are_bounded_and_harmless(arena: Arena) -> None:
    scores, region = child(arena)
    slot = scores.take()
    slot.begin(request("PROPFINDING", b"/\x1b[2J" + b"a" * 300), 1.0)
    (seen,) = read_child(arena, region).slots
    assert seen.method == "PROPFIND"
    assert seen.path == "/\\x1b[2J" + "a" * 91


@pytest.mark.parametrize("place", range(len(BOUNDS)))
def test_the_bounds_of_the_histograms_are_what_they_say(arena: Arena, place: int) -> None:
    scores, region = child(arena)
    slot = scores.take()
    for seconds in (BOUNDS[place], BOUNDS[place] * 1.0001):
        slot.end(200, 0, seconds)
        slot.waited(seconds)
    totals = read_child(arena, region).totals
    for counts in (totals.latency, totals.waits):
        assert [at for at, count in enumerate(counts) if count] == [place, place + 1]


def test_counts_by_class_and_bytes(arena: Arena) -> None:
    scores, region = child(arena)
    slot = scores.take()
    for status, size in ((200, 13), (204, 0), (301, 1), (404, 7), (500, 9), (0, 3)):
        slot.end(status, size, 0.002)
    slot.end_other(101, 100)
    totals = read_child(arena, region).totals
    assert totals.by_class == {"cut": 1, "1xx": 1, "2xx": 2, "3xx": 1, "4xx": 1, "5xx": 1}
    assert (totals.requests, sum(totals.latency), totals.sent) == (7, 6, 133)
    assert totals.seconds == pytest.approx(0.012)


def test_the_next_thread_in_a_slot_goes_on_counting(arena: Arena) -> None:
    scores, region = child(arena, slots=1)
    first = scores.take()
    first.end(200, 10, 0.1)
    beyond = scores.take()
    beyond.end(200, 1000, 9.0)  # there is no slot for it: nobody sees that
    scores.give_back(beyond)
    scores.give_back(first)
    second = scores.take()
    second.end(500, 5, 0.2)
    totals = read_child(arena, region).totals
    assert (totals.requests, totals.sent) == (2, 15)
    assert totals.seconds == pytest.approx(0.3)


def test_requests_that_wait_in_a_loop_are_in_the_table(arena: Arena) -> None:
    scores, region = child(arena)
    slot = scores.take()
    slot.enter(layout.LOOP)
    entry = slot.wait(request("GET", b"/stream"), 7.0, layout.EVENT_STREAM)
    other = slot.wait(request("POST", b"/slow"), 8.0, layout.REQUEST)
    view = read_child(arena, region)
    assert [(one.kind, one.path, one.since) for one in view.waiting] == [
        ("event stream", "/stream", 7.0),
        ("request", "/slow", 8.0),
    ]
    assert (view.slots[0].waiting, view.slots[0].event_streams, view.open_requests) == (1, 1, 1)
    slot.wait_no_more(entry, layout.EVENT_STREAM)
    slot.wait_no_more(other, layout.REQUEST)
    view = read_child(arena, region)
    assert (view.waiting, view.slots[0].waiting, view.slots[0].event_streams) == ((), 0, 0)


def test_more_requests_wait_than_the_table_takes(arena: Arena) -> None:
    scores, region = child(arena)
    slot = scores.take()
    entries = [slot.wait(request(), 1.0, layout.REQUEST) for _ in range(100)]
    view = read_child(arena, region)
    assert (len(view.waiting), view.slots[0].waiting) == (64, 100)
    for entry in entries:
        slot.wait_no_more(entry, layout.REQUEST)
    assert slot.wait(request(), 1.0, layout.REQUEST) >= 0


def test_the_child_as_a_whole(arena: Arena) -> None:
    scores, region = child(arena)
    phases = [0] * layout.PHASE_COUNT
    phases[Phase.IDLE], phases[Phase.HANDSHAKE] = 5, 2
    scores.count(threads=4, pauses=3, resident=1 << 20, phases=phases)
    scores.tell(12.5)
    view = read_child(arena, region)
    assert (view.threads, view.pauses, view.resident, view.due) == (4, 3, 1 << 20, 12.5)
    assert (view.phases[Phase.IDLE], view.phases[Phase.HANDSHAKE]) == (5, 2)


def test_without_shared_memory_everything_goes_nowhere() -> None:
    scores = inherited(Papers())
    slot = scores.take()
    slot.enter()
    slot.begin(request(), 1.0)
    slot.wait_no_more(slot.wait(request(), 1.0, layout.REQUEST), layout.REQUEST)
    slot.end(200, 1, 0.1)
    scores.count(1, 0, 0, [])
    scores.tell(1.0)
    scores.give_back(slot)
    nowhere().end(200, 1, 0.1)


# -- readers and what they may meet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x80, 0x01])
def test_a_reader_survives_whatever_a_broken_child_has_written(arena: Arena, byte: int) -> None:
    _, region = child(arena)
    arena.write(region.offset, bytes([byte]) * region.length)
    view = read_child(arena, region)
    assert len(view.slots) == region.slots  # and not as many as the child claims
    assert all(slot.held(monotonic()) >= 0 for slot in view.slots)
    assert view.totals.seconds >= 0
    Totals.from_json(view.totals.as_json())


def test_a_child_that_maps_its_region_cannot_write_into_another(arena: Arena) -> None:
    first, region = child(arena, slots=1)
    _, other = child(arena, slots=1)
    assert first._memory is not None
    first._memory[HEADER:] = b"\xff" * (len(first._memory) - HEADER)
    assert len(first._memory) == region.length
    assert read_child(arena, other).totals == Totals()


def test_readers_see_counts_only_grow_while_threads_write(arena: Arena) -> None:
    scores, region = child(arena)
    each = 20_000

    def work() -> None:
        slot = scores.take()
        slot.enter()
        for number in range(each):
            slot.begin(request("GET", b"/%d" % number), monotonic())
            slot.end(200, 1, 0.0001)
            slot.idle()
        slot.leave()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    last = Totals()
    while any(thread.is_alive() for thread in threads):
        seen = read_child(arena, region).totals
        assert seen.requests >= last.requests
        assert seen.sent >= last.sent
        last = seen
    for thread in threads:
        thread.join()
    totals = read_child(arena, region).totals
    assert (totals.requests, totals.sent, totals.by_class["2xx"]) == (3 * each, 3 * each, 3 * each)


def test_totals_add_up_and_travel_as_json() -> None:
    one = Totals(sent=5, seconds=1.5, streams=(0, 1, 2, 0, 0, 0))
    both = one + one
    assert (both.sent, both.seconds, both.requests) == (10, 3.0, 6)
    assert Totals.from_json(both.as_json()) == both


@pytest.mark.parametrize("key", ["rows", "streams", "waits"])
def test_totals_of_another_layout_are_refused(key: str) -> None:
    raw = Totals().as_json()
    raw[key] = raw[key][:-1]
    with pytest.raises(ValueError, match="another layout"):
        Totals.from_json(raw)
