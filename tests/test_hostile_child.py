"""The master reads what children write, as root perhaps, while the application in them may be somebody else's by now.

Whatever stands on a channel or in the shared memory, the master goes on: random packets, messages of the right shape
with wrong values, and regions full of anything, through everything that the master makes of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import struct
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serverd.config import ServerConfig
from serverd.config.model import TimeoutsConfig, WorkersConfig
from serverd.server import slots as layout
from serverd.server.arena import BOARD, SLOT, SLOTS_AT, Arena, Region
from serverd.server.channel import Channel, ChannelError, decode
from serverd.server.scoreboard import Totals, read_child
from serverd.supervisor import facts, flight_recorder, stack_force, status, watchdog
from serverd.supervisor.board import Board
from serverd.supervisor.canary import Sample, complaint, verdict
from serverd.supervisor.child_state import Event, State
from serverd.supervisor.crew import Crew
from serverd.supervisor.nursery import Nursery
from serverd.supervisor.roster import Child, Roster
from serverd.supervisor.vigil import Vigil
from serverd.supervisor.watching import News

from .support.world import configuration

SLOTS = 3
NAMES = ["Ready", "BootFailed", "Drained", "Worn", "StacksAre", "Forked", "Preloaded", "Drain", "Nothing"]
FIELDS = ["pid", "threads", "gil", "gil_culprit", "seconds", "app", "stage", "exit_code", "error", "traceback",
          "requests", "cut", "reason", "words", "request", "text", "last", "index", "graceful", "final"]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**4000), st.just(-(2**63)), st.floats(), st.text(),
    st.sampled_from(["max_requests", "import", "\x1b[2J\n2026-01-01T00:00:00.000Z  info", "\ud800", "x" * 70_000]),
    st.lists(st.one_of(st.text(), st.integers()), max_size=3), st.just([[]] * 3), st.just({"a": 1}),
)  # fmt: skip
MESSAGES = st.builds(
    lambda name, fields: {"type": name, **fields},
    st.sampled_from(NAMES),
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
)
# As a child says them, but for values of its choice.
READY = {
    "type": "Ready",
    "pid": 1,
    "threads": 2,
    "gil": False,
    "gil_culprit": None,
    "seconds": 0.1,
    "app": "x:y",
}
FAILED = {"type": "BootFailed", "stage": "import", "exit_code": 4, "error": "no", "traceback": ""}


def packet(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()[: 200 * 1024]


@settings(max_examples=200)
@given(st.one_of(st.binary(), MESSAGES.map(packet)))
@example(b"[" * 100_000)
@example(packet({**READY, "threads": 10**400}))
@example(packet({**READY, "seconds": 10**400}))
@example(packet(READY).replace(b"0.1", b"NaN"))
@example(packet(READY).replace(b"0.1", b"1e999"))
@example(packet({**FAILED, "exit_code": True}))
def test_a_packet_is_a_message_or_refused(raw: bytes) -> None:
    try:
        message = decode(raw)
    except ChannelError:
        return
    for name in message.__slots__ if hasattr(message, "__slots__") else ():
        value = getattr(message, name)
        if isinstance(value, (int, float)):
            assert math.isfinite(value)
            assert -(2**63) < value < 2**63


class Family:
    """A crew with one child, whose channel is in the test's hand, and a process that lives until it is killed."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.roster = Roster()
        self.roster.begin(configuration(), None, "start", 0.0)
        self.crew = Crew(self.roster, selector, Nursery(self.roster, selector), Board(), None)
        self.above, self.below = Channel.pair()
        self.above.sock.setblocking(False)
        self.pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        self.child = Child(0, 1, 0.0)
        self.child.channel = self.above
        self.roster.children.append(self.child)
        self.crew._started(self.child, self.pid, os.pidfd_open(self.pid))

    def end(self) -> None:
        """The process ends, and is buried."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.crew._departed(self.child, os.waitpid(self.pid, 0)[1])
        self.below.close()


@contextlib.contextmanager
def family() -> Iterator[Family]:
    with selectors.DefaultSelector() as selector:
        made = Family(selector)
        yield made
        made.end()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), MESSAGES.map(packet), st.just(packet(READY)))))
def test_whatever_a_child_says_the_crew_goes_on(said: list[bytes]) -> None:
    with family() as made:
        for raw in said:
            with contextlib.suppress(OSError):  # the crew has hung up
                made.below.sock.send(raw)
            made.crew._on_message(made.child)
        assert made.child.state in (State.BOOTING, State.READY, State.FAILED, State.DRAINING, State.KILLED)
        assert -(2**63) < made.child.threads < 2**63


@pytest.mark.parametrize(("code", "status"), [(0, 3), (3, 3), (4, 4), (77, 3), (-1, 3), (2**40, 3)])
def test_a_child_does_not_choose_the_exit_status_of_the_daemon(code: int, status: int) -> None:
    with family() as made:
        made.below.sock.send(packet({**FAILED, "exit_code": code}))
        made.crew._on_message(made.child)
        assert made.roster.booting is not None
        assert made.roster.booting.failure is not None
        assert made.roster.booting.failure.status == status


def test_what_is_remembered_of_complaints_is_bounded() -> None:
    with family() as made:
        for number in range(300):
            made.crew._first_time(1, f"{number}" + "x" * 200_000)
        assert sum(len(text) for _, text in made.crew._said) < 1_000_000


# The shared memory

# Numbers that hurt, as whole numbers and as times, in the places of anything.
WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=True, allow_infinity=True).map(
        lambda value: struct.unpack("=Q", struct.pack("=d", value))[0]
    ),
    st.sampled_from(
        [0, 1, 2**63, 2**64 - 1, 0x7FEFFFFFFFFFFFFF, 0x7FF8000000000000, 0x7FF0000000000000, 1 << 52]
    ),
)


# Words that stand again and again over all of a region, or bytes that do.
PATTERNS = st.one_of(st.lists(WORDS, min_size=1, max_size=40), st.binary(min_size=64, max_size=64))


def region_of(pattern: list[int] | bytes) -> bytes:
    """What a child may have written: `pattern` over all that is read."""
    size = SLOTS_AT + SLOTS * SLOT
    if isinstance(pattern, bytes):
        return pattern * (size // len(pattern))
    words = (pattern * (size // 8 // len(pattern) + 1))[: size // 8]
    words[layout.USED] = SLOTS  # as many as there are: all are read
    return struct.pack(f"={len(words)}Q", *words)


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    made = Board()
    assert made.arena is not None
    yield made
    made.arena.close()


@settings(max_examples=150, deadline=None)
@given(pattern=PATTERNS, before=PATTERNS)
def test_whatever_stands_in_a_region_everything_is_made_of_it(
    board: Board, pattern: list[int] | bytes, before: list[int] | bytes
) -> None:
    arena = board.arena
    assert arena is not None
    region = Region(BOARD, SLOTS)
    arena.write(region.offset, region_of(before))
    earlier = read_child(arena, region)
    arena.write(region.offset, region_of(pattern))
    view, now = read_child(arena, region), monotonic()
    assert len(view.slots) <= SLOTS
    finding = watchdog.examine(view, 30.0, 5.0, now)
    assert not math.isnan(finding.again)
    lines = [*watchdog.words(finding, 30.0, now), *flight_recorder.report(view, "", now)]
    assert all(line.isprintable() and len(line) < 20_000 for line in lines)
    watchdog.nothing_else_left(view, finding.stuck)
    new, old = Sample.between(earlier.totals, view.totals), Sample.between(Totals(), view.totals)
    assert isinstance(complaint(old, new) + complaint(new, old) + verdict(new), str)
    assert Totals.from_json(json.loads(json.dumps((view.totals + view.totals).as_json(), allow_nan=False)))


@settings(max_examples=60, deadline=None)
@given(pattern=PATTERNS)
def test_the_watch_and_the_status_survive_it_too(pattern: list[int] | bytes) -> None:
    config = ServerConfig(
        app="x:y", workers=WorkersConfig(processes=1, threads=1), timeouts=TimeoutsConfig(stuck=30.0)
    )
    roster, board, history = Roster(), Board(), facts.History(1, 0.0)
    assert board.arena is not None
    try:
        roster.begin(config, None, "start", 0.0)
        child = Child(0, 1, 0.0, papers=board.papers(config))
        assert child.papers.region is not None
        roster.children.append(child)
        for event in (Event.SPAWNED, Event.BECAME_READY):
            child.apply(event, 1.0)
        roster.promote()
        board.arena.write(child.papers.region.offset, region_of(pattern)[: child.papers.region.length])
        vigil = Vigil(roster, board, history, 5.0)
        now = monotonic()
        asked = vigil.tend(now)
        assert now <= asked <= now + 30, "the master's selector takes no more than so many seconds"
        published = facts.gather(roster, config, history, [], (0, 0, None))
        json.dumps(status.status(published, board), allow_nan=False)
        board.publish(published)
        board.fold(child.papers)
        json.dumps(board.totals.as_json(), allow_nan=False)
        board.publish(published)
    finally:
        board.arena.close()


def test_the_memory_cannot_be_cut_nor_can_a_reader_write() -> None:
    arena = Arena.create()
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    with arena.for_a_reader() as fd, pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    arena.close()


# What the master asks of a child's files, and what it hears of other helpers


def test_a_file_for_stacks_that_a_child_has_made_huge_is_read_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sparse file of 4 EiB costs the child nothing; to read it whole would end the master."""
    file = os.memfd_create("stacks")
    os.ftruncate(file, 2**62)
    asked: list[int] = []

    def pread(fd: int, size: int, at: int) -> bytes:
        asked.append(size)
        return b""

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(stack_force, "_handles", lambda pid: True)
    monkeypatch.setattr(stack_force, "_threads", lambda pid: [os.getpid()])
    monkeypatch.setattr(stack_force, "tgkill", lambda: lambda *_: os.ftruncate(file, 2**62))
    force = stack_force.Force(os.getpid(), file, None)
    while not force.is_over:
        force.step()
    assert asked == [stack_force._MOST_TEXT]
    os.close(file)


@pytest.mark.parametrize(
    "raw",
    [b"5", b"[]", b"null", b"{", b"[" * 100_000, b'{"changed": 5}', b'{"changed": [5]}', b"\xff",
     b'{"changed": ["a"], "more": 1e999}', b'{"changed": ["a"], "more": -1}', b'{"changed": [], "more": "x"}'],
)  # fmt: skip
def test_a_watcher_that_talks_nonsense_is_found_out(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        News.read(raw)


def test_what_a_watcher_says() -> None:
    assert News.read(b'{"changed": ["/a", "/b"], "more": 3}') == News(("/a", "/b"), 3)
    assert News.read(b'{"watching": true}') == News(watching=True)
    assert News.read(b'{"failed": "too many"}') == News(failed="too many")


def test_a_template_cannot_pass_off_what_is_ours_already() -> None:
    """It may have killed the watcher, whose successor is younger than its order."""
    with selectors.DefaultSelector() as selector:
        roster = Roster()
        nursery = Nursery(roster, selector, lambda pid: pid == 4711)
        roster.children.append(Child(0, 1, 0.0, pid=4712))
        assert [pid for pid in (4711, 4712, 4713) if nursery._is_known(pid)] == [4711, 4712]
