"""The stacks of this process, and a round of questions to children that do not answer."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serverd.server import stacks
from serverd.server.channel import StacksAre
from serverd.server.stacks import Frame, Stacks, frames_of, parse, show
from serverd.supervisor import stack_rounds
from serverd.supervisor.board import Board
from serverd.supervisor.child_state import State
from serverd.supervisor.roster import Child, Roster
from serverd.supervisor.stack_force import Force
from serverd.supervisor.stack_rounds import LONGEST, PATIENCE, StackRounds

HEAD = 'Stack (most recent call first):\n  File "/x.py", line 3 in x\n'


@pytest.fixture
def writer() -> Iterator[Stacks]:
    made = Stacks(-1, lambda exchange, now: "GET /")
    yield made
    os.close(made._file)


class Blocked:
    """A thread that waits in `sit`, until it is let go."""

    def __init__(self) -> None:
        self._inside, self._out = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.sit, name="sitter")
        self.thread.start()
        self._inside.wait()

    def sit(self) -> None:
        self._inside.set()
        self._out.wait()

    def leave(self) -> None:
        self._out.set()
        self.thread.join()


def test_a_thread_says_where_it_is_and_goes_on(writer: Stacks) -> None:
    sitter = Blocked()
    for _ in range(3):  # the file is as it was before
        lines = writer.of(sitter.thread.native_id or 0)
        assert any(re.search(r"test_stacks.py:\d+ in sit$", line) for line in lines)
        assert "    self._out.wait()" in lines
        assert not any("_bootstrap" in line for line in lines)
    sitter.leave()


def test_every_thread_is_in_the_report(writer: Stacks) -> None:
    sitter = Blocked()
    report = list(writer.report({}))
    (text,) = [text for text in report if text.startswith("thread sitter ")]
    assert f"({sitter.thread.native_id})" in text.splitlines()[0]
    assert any("listens to the master, and has written this" in text for text in report)
    sitter.leave()


def test_a_thread_that_has_ended_is_no_mistake(writer: Stacks) -> None:
    sitter = Blocked()
    native = sitter.thread.native_id or 0
    sitter.leave()
    while os.path.exists(f"/proc/self/task/{native}"):  # the kernel is a moment behind
        time.sleep(0.001)
    assert writer.of(native) == ["it has ended"]


class Late(Blocked):
    """One that takes the signal only when it is let go, like one in an uninterruptible system call."""

    def sit(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [stacks.SIGNAL])
        super().sit()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [stacks.SIGNAL])


def test_a_thread_that_does_not_answer_is_asked_once(writer: Stacks) -> None:
    late, sitter = Late(), Blocked()
    number = late.thread.native_id or 0
    answered, (line,) = writer.ask_thread(number, 0.01)
    assert not answered
    assert "does not answer within 0.01 s" in line
    began = time.monotonic()
    assert writer.of(number) == [stacks.UNHEARD]
    assert time.monotonic() - began < stacks.PATIENCE / 2, "nobody waits for it again"
    assert any("in sit" in line for line in writer.of(sitter.thread.native_id or 0)), "others are asked"
    late.leave()
    assert any("in sit" in line for line in writer.of(sitter.thread.native_id or 0))
    sitter.leave()


def test_a_late_answer_is_not_taken_for_anothers(writer: Stacks) -> None:
    late, sitter = Late(), Blocked()
    writer.ask_thread(late.thread.native_id or 0, 0.01)
    ask = writer._tgkill

    def meanwhile(pid: int, thread: int, number: int) -> None:
        late.leave()
        ask(pid, thread, number)

    writer._tgkill = meanwhile
    assert writer.ask_thread(sitter.thread.native_id or 0) == (True, [stacks.UNCLEAR])
    writer._tgkill = ask
    assert any("in sit" in line for line in writer.of(sitter.thread.native_id or 0))
    sitter.leave()


@pytest.mark.parametrize(
    ("text", "clear"), [("", False), (HEAD, True), (HEAD + HEAD, False), ('  File "x"\n' + HEAD, False)]
)
def test_what_two_have_written_is_seen(text: str, clear: bool) -> None:
    assert stacks.of_one_thread(text) is clear


LONG_CALL = """
import gc, os, re, threading, time
from serverd.server.stacks import Stacks

gc.disable()  # a collection stops the world as well, and would wait for the end of the call

def in_c():
    re.match(r"(a+)+$", "a" * 30 + "b")

def seen(thread):
    while thread.is_alive():
        if "in in_c" in " ".join(writer.of(thread.native_id)):
            return True
        time.sleep(0.001)

writer = Stacks(-1, lambda exchange, now: "")
for _ in range(5):  # the call may be over before this thread has had its turn
    thread = threading.Thread(target=in_c, daemon=True)
    thread.start()
    if not seen(thread):
        continue
    began = time.monotonic()
    writer.of(thread.native_id)
    took = time.monotonic() - began
    if thread.is_alive():
        print("short" if took < 1 else took, flush=True)
        break
os._exit(0)
"""


def test_a_long_call_in_c_holds_nobody_up() -> None:
    """sys._current_frames would wait for its end: it stops the world."""
    ran = subprocess.run([sys.executable, "-c", LONG_CALL], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("short\n", "")


def test_what_faulthandler_writes_is_read() -> None:
    text = (
        "Stack (most recent call first):\n"
        '  File "/a b/x.py", line 3 in <lambda>\n'
        '  File "/a/server/sync_worker.py", line 9 in _turn_safely\n'
        '  File "/python/threading.py", line 1 in _bootstrap\n'
        "nonsense\n"
    )
    assert parse(text) == [Frame("/a b/x.py", 3, "<lambda>")]
    assert parse("") == []
    assert list(show(Frame("/a b/x.py", 3, "<lambda>"))) == ["/a b/x.py:3 in <lambda>"]


def test_a_coroutine_says_where_it_waits() -> None:
    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner()

    async def look() -> list[str]:
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        names = [frame.function.rpartition(".")[2] for frame in frames_of(task)]
        task.cancel()
        return names

    assert asyncio.run(look())[-2:] == ["inner", "outer"]


# The master's side


class Heard:
    """A reply that keeps what it was told."""

    who = "pid 1, uid 0"

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.over = 0

    def event(self, name: str, **fields: Any) -> None:
        assert name == "stack"
        self.texts.append((fields["child"], fields["text"]))

    def succeed(self, **fields: object) -> None:
        self.over += 1


class Deaf:
    """A child's channel that takes everything."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, message: object) -> bool:
        self.sent.append(message)
        return True


def a_round(*pids: int) -> tuple[StackRounds, list[Child], Heard]:
    roster = Roster()
    for place, pid in enumerate(pids):
        roster.children.append(Child(place, 1, 0.0, State.READY, pid, channel=Deaf()))  # type: ignore[arg-type]
    rounds, heard = StackRounds(roster, Board()), Heard()
    rounds.begin(heard)  # type: ignore[arg-type]
    return rounds, roster.children, heard


def test_a_round_ends_when_all_have_said_all() -> None:
    rounds, (first, second), heard = a_round(11, 12)
    rounds.heard(first, StacksAre(1, "one", last=False))
    rounds.heard(second, StacksAre(1, "two", last=False))
    rounds.heard(second, StacksAre(1, "", last=True))
    rounds.heard(second, StacksAre(1, "more than it may", last=False))
    assert len(heard.texts) == 2
    rounds.gone(first)
    assert heard.over == 1
    assert heard.texts == [
        ("worker 0 g1", "one"),
        ("worker 1 g1", "two"),
        ("worker 0 g1", "it has exited"),
    ]
    assert rounds.tend(time.monotonic()) == math.inf


def test_without_children_there_is_nothing_to_wait_for() -> None:
    _, _, heard = a_round()
    assert (heard.over, heard.texts) == (1, [])


@pytest.mark.parametrize(("request_number", "text"), [(9, "x"), (None, "x"), (1, None)])
def test_what_was_not_asked_is_dropped(request_number: Any, text: Any) -> None:
    rounds, (child,), heard = a_round(11)
    rounds.heard(child, StacksAre(request_number, text, last=True))
    assert (heard.over, heard.texts) == (0, [])


def test_a_child_says_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_rounds, "_MOST_TEXT", 10)
    rounds, (child,), heard = a_round(11)
    for _ in range(5):
        rounds.heard(child, StacksAre(1, "12345", last=False))
    assert len(heard.texts) == 2
    rounds.heard(child, StacksAre(1, "", last=True))
    assert heard.over == 1


def test_one_that_stops_in_the_middle_is_not_waited_for() -> None:
    rounds, (child,), heard = a_round(11)
    rounds.heard(child, StacksAre(1, "one", last=False))
    now = time.monotonic()
    assert rounds.tend(now + PATIENCE + 1) > now + PATIENCE + 1, "it has begun"
    rounds.tend(now + LONGEST + 1)
    assert heard.over == 1
    assert heard.texts[-1] == ("worker 0 g1", "it did not finish within 10 s")


def test_one_that_cannot_be_asked_without_its_help_is_named_and_not_signalled() -> None:
    """The signal would end a process that has no handler for it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        rounds, _, heard = a_round(process.pid)
        rounds.tend(time.monotonic() + PATIENCE)
        assert heard.over == 1
        assert heard.texts == [
            ("worker 0 g1", "its main thread does not answer, and it cannot be asked otherwise yet")
        ]
        assert process.poll() is None
        process.kill()


HANGING = """
import sys, threading, time
from serverd.server.stacks import install
def hang():
    print("inside", flush=True)
    time.sleep(60)
install(int(sys.argv[1]))
threading.Thread(target=hang, name="helper", daemon=True).start()
hang()
"""


def test_the_threads_of_a_child_that_does_not_answer_are_asked_one_by_one() -> None:
    words = os.memfd_create("words")
    argv = [sys.executable, "-c", HANGING, str(words)]
    with subprocess.Popen(argv, pass_fds=(words,), stdout=subprocess.PIPE) as process:
        said: list[str] = []
        try:
            assert process.stdout is not None
            for _ in range(2):
                process.stdout.readline()
            force = Force(process.pid, words, None)
            force.join(said.append)
            while force.due != math.inf:
                time.sleep(max(0.0, force.due - time.monotonic()))  # as the master's selector does
                force.step()
            assert process.poll() is None
        finally:
            process.kill()
    assert said[0] == "its main thread does not answer; what its threads have written themselves:"
    assert len(said) == 3
    assert all("in hang" in text for text in said[1:])
    os.close(words)


LATE = """
import signal, sys, threading, time
from serverd.server.stacks import SIGNAL, install
def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, [SIGNAL])
    print("inside", flush=True)
    sys.stdin.readline()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGNAL])
    time.sleep(60)
install(int(sys.argv[1]))
threading.Thread(target=hang, name="helper", daemon=True).start()
time.sleep(60)
"""


def test_two_who_ask_the_same_child_get_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a thread that has not answered the first time is not asked again."""
    file = os.memfd_create("stacks")
    argv = [sys.executable, "-c", LATE, str(file)]
    with subprocess.Popen(
        argv, pass_fds=(file,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            rounds, (child,), first = a_round(process.pid)
            child.papers = child.papers._replace(stacks=file)
            second, third = Heard(), Heard()
            rounds.begin(second)  # type: ignore[arg-type]

            def until_the_end() -> None:
                while (due := rounds.tend(time.monotonic())) != math.inf:
                    time.sleep(max(0.0, due - time.monotonic()))  # as the master's selector does

            until_the_end()
            assert (first.over, second.over) == (1, 1)
            assert first.texts == second.texts
            _, main, helper = [text for _, text in first.texts]
            assert "in <module>" in main
            assert "nothing: it cannot be interrupted" in helper
            rounds.begin(third)  # type: ignore[arg-type]
            until_the_end()
            _, main, helper = [text for _, text in third.texts]
            assert "in <module>" in main
            assert stacks.UNHEARD in helper
        finally:
            process.kill()
    os.close(file)


def test_the_signal_is_not_one_of_glibcs() -> None:
    assert 34 < stacks.SIGNAL < 64
