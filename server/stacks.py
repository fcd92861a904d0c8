"""The stacks of this process's threads and coroutines, for a person who wants to know where a request hangs.

Promises: nothing stops for it. ``sys._current_frames`` would: it stops the world, and a thread in a long C call (a
regular expression that backtracks) holds all others up until it comes back (6.0 s in a measurement on 3.14t). Here
each thread writes its own frames, in faulthandler's handler of a signal that is sent to that thread alone. Coroutines
that wait are asked for in their own loop, as another thread must not look into a frame that may run. A thread that
answers late writes into a file that nobody takes for anything else, and its stack is not shown as another's. Refuses:
local variables, which are often secrets.

Threads: everything belongs to the child's main thread, but ``_coroutines``, which runs in the loop that it looks at.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import faulthandler
import linecache
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from .exchange import Exchange
from .slots import Slot

# No signal of anybody's: glibc keeps the first two real-time signals, and libraries that use others begin there.
SIGNAL: Final = signal.SIGRTMIN + 11
# How long a thread may take to write: it only has to be scheduled. One in an uninterruptible system call never does.
PATIENCE: Final = 0.5
_SETTLED: Final = 0.002  # a handler that has written nothing more for so long is done; a frame takes it 2 µs
# How long a loop may take to get round to it.
_TURN: Final = 0.5
# A whole report keeps the main thread from its deadlines for so long, and then for the thread that it has just asked.
_BUDGET: Final = 2.0
LONGEST_REPORT: Final = _BUDGET + PATIENCE + _TURN
_MOST_THREADS: Final = 256
_MOST_COROUTINES: Final = 50

_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_HEAD: Final = "Stack (most recent call first):"
# What is said where there is no stack.
UNHEARD: Final = (
    "it has not answered since it was asked before: it is in a system call that cannot be interrupted"
)
UNCLEAR: Final = (
    "a thread that was asked before has answered now, so that nobody knows whose stack was written"
)
# Where each thread of Python's, and each turn of a worker, begins: nobody wants to read what is below.
_ROOTS: Final = frozenset(
    {
        (os.path.join("asyncio", "base_events.py"), "run_forever"),
        (os.path.join("server", "sync_worker.py"), "_turn_safely"),
        (os.path.basename(threading.__file__), "_bootstrap_inner"),
        (os.path.basename(threading.__file__), "run"),
    }
)


class Frame(NamedTuple):
    """One call."""

    file: str
    line: int
    function: str


class Held(NamedTuple):
    """What a thread of ours serves: the request that holds it, if one does, and those that wait in its loop."""

    current: Exchange | None
    waiting: Mapping[asyncio.Task[Any], Exchange]
    loop: asyncio.AbstractEventLoop | None
    slot: Slot


def install(file: int) -> int:
    """From now on a thread that gets ``SIGNAL`` writes its stack into ``file``, a memfd; -1: make one. The
    descriptor of the file."""
    if file < 0:
        file = os.memfd_create("serverd-stacks", os.MFD_CLOEXEC)
    # Not all threads: what the others run would change under its hands.
    faulthandler.register(SIGNAL, file=file, all_threads=False)
    return file


class Stacks:
    """See the module. ``file`` as for ``install``; ``describe`` says in a line what a request is."""

    def __init__(self, file: int, describe: Callable[[Exchange, float], str]) -> None:
        self._file = install(file)
        self._describe = describe
        self._tgkill = tgkill()
        self._silent: set[int] = set()  # threads that may still answer, by the kernel's number

    def report(self, held: Mapping[int, Held]) -> Iterator[str]:
        """A text for each thread; ``held``: by the number that Python has for the thread."""
        asked = {ident: self.ask(thread) for ident, thread in held.items() if thread.waiting}
        began = time.monotonic()
        threads = sorted(threading.enumerate(), key=lambda thread: (thread.ident not in held, thread.name))
        for thread in threads[:_MOST_THREADS]:
            if time.monotonic() > began + _BUDGET:
                yield f"thread {thread.name} ({thread.native_id}) was not asked: the others took too long"
                continue
            ours = held.get(thread.ident or 0)
            yield "\n".join(self._thread(thread, ours, asked.get(thread.ident or 0), began + _TURN))
        if len(threads) > _MOST_THREADS:
            yield f"and {len(threads) - _MOST_THREADS} more threads"
        yield from _foreign(threads)

    def of(self, native_id: int) -> list[str]:
        """The lines for one thread, the most recent call first; without a stack, a line that says why."""
        return self.ask_thread(native_id)[1]

    def ask_thread(self, native_id: int, patience: float = PATIENCE) -> tuple[bool, list[str]]:
        """Whether it has answered, or has ended; and the lines, as ``of``."""
        if is_pending(os.getpid(), native_id):  # the master may have asked it
            self._silent.add(native_id)
            return False, [UNHEARD]
        before = {thread for thread in self._silent if is_pending(os.getpid(), thread)}
        os.ftruncate(self._file, 0)  # with what the others have written by now
        os.lseek(self._file, 0, os.SEEK_SET)
        try:
            self._tgkill(os.getpid(), native_id, SIGNAL)
        except OSError:  # or it begins, and has no number yet
            return True, ["it has ended"]
        text = self._written(patience)
        self._silent = {thread for thread in before if is_pending(os.getpid(), thread)}
        spoke = before - self._silent
        if is_pending(os.getpid(), native_id):
            self._silent.add(native_id)
            return False, [
                f"it does not answer within {patience:g} s: it is in a system call that cannot be interrupted"
            ]
        if text and (spoke or not of_one_thread(text)):
            return True, [UNCLEAR]
        lines = [line for frame in parse(text) for line in show(frame)]
        return True, lines or ["no Python code runs in it"]

    def _thread(
        self,
        thread: threading.Thread,
        held: Held | None,
        asked: concurrent.futures.Future[list[str]] | None,
        until: float,
    ) -> Iterator[str]:
        now = time.monotonic()
        serves = "" if held is None or held.waiting else " idle"
        if held is not None and held.current is not None:
            serves = f" holds {self._describe(held.current, now)}"
        yield f"thread {thread.name} ({thread.native_id}){serves}"
        if thread is threading.current_thread():
            yield "  listens to the master, and has written this"
            return
        for line in self.of(thread.native_id or 0):
            yield f"  {line}"
        if asked is None:
            return
        try:
            yield from asked.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            # Nothing changes in it now, so that these can be looked at from here; frames that may run cannot.
            waiting = list(held.waiting.values())[:_MOST_COROUTINES] if held is not None else []
            yield "  its event loop stands still, and so do the requests that wait in it:"
            yield from (f"    {self._describe(exchange, now)}" for exchange in waiting)

    def ask(self, held: Held) -> concurrent.futures.Future[list[str]]:
        """Ask a loop for the stacks of the requests that wait in it."""
        answer: concurrent.futures.Future[list[str]] = concurrent.futures.Future()

        def look() -> None:
            try:
                answer.set_result(list(self._coroutines(held.waiting)))
            except Exception as exc:  # noqa: BLE001 - it must not end in the loop's handler, and the reader must know
                answer.set_result([f"  the coroutines cannot be shown: {exc!r}"])

        assert held.loop is not None
        try:
            held.loop.call_soon_threadsafe(look)
        except RuntimeError as exc:
            answer.set_result([f"  its event loop is closed: {exc}"])
        return answer

    def _coroutines(self, waiting: Mapping[asyncio.Task[Any], Exchange]) -> Iterator[str]:
        now = time.monotonic()
        tasks = list(waiting.items())
        for task, exchange in tasks[:_MOST_COROUTINES]:
            yield f"  waits in its event loop: {self._describe(exchange, now)}"
            for frame in frames_of(task):
                for line in show(frame):
                    yield f"    {line}"
        if len(tasks) > _MOST_COROUTINES:
            yield f"  and {len(tasks) - _MOST_COROUTINES} more requests that wait"

    def _written(self, patience: float) -> str:
        """What a handler writes; empty when nothing comes."""
        deadline = time.monotonic() + patience
        size = 0
        while time.monotonic() < deadline:
            grown = os.fstat(self._file).st_size
            if grown and grown == size:
                break
            size = grown
            time.sleep(_SETTLED)  # no event tells that a handler in another thread is done
        return os.pread(self._file, size, 0).decode(errors="backslashreplace")


def is_pending(pid: int, thread: int) -> bool:
    """Whether ``SIGNAL`` waits for this thread to take it (proc_pid_status(5), SigPnd)."""
    try:
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
            waits = next((line.split()[1] for line in file if line.startswith("SigPnd:")), "0")
        return bool(int(waits, 16) >> (SIGNAL - 1) & 1)
    except OSError, ValueError, IndexError:  # it has ended; or /proc is not mounted here
        return False


def of_one_thread(text: str) -> bool:
    """Whether it is one stack from its beginning."""
    return text.startswith(_HEAD) and text.count(_HEAD) == 1


def parse(text: str) -> list[Frame]:
    """The frames in what faulthandler writes, without those where every thread begins."""
    found = [Frame(hit[1], int(hit[2]), hit[3]) for hit in map(_FRAME.fullmatch, text.splitlines()) if hit]
    for place, frame in enumerate(found):
        if place and any(frame.function == name and frame.file.endswith(file) for file, name in _ROOTS):
            return found[:place]
    return found


def show(frame: Frame) -> Iterator[str]:
    """As in a traceback, with the line of source if there is one."""
    yield f"{frame.file}:{frame.line} in {frame.function}"
    if source := linecache.getline(frame.file, frame.line).strip():
        yield f"    {source}"


def frames_of(task: asyncio.Task[Any]) -> list[Frame]:
    """Where a task waits, the most recent call first. For the thread of its loop."""
    graph = asyncio.capture_call_graph(task)
    entries = graph.call_stack if graph is not None else ()
    frames = [entry.frame for entry in entries]
    return [Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname) for frame in frames]


def _foreign(known: Iterable[threading.Thread]) -> Iterator[str]:
    """The threads that Python knows nothing of, by the names that the kernel has for them."""
    ours = {thread.native_id for thread in known}
    try:
        tasks = sorted(map(int, os.listdir("/proc/self/task")))
    except OSError:  # /proc is not mounted here
        return
    for task in tasks:
        if task in ours:
            continue
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
                yield f"thread {file.read().strip()} ({task}) of a library"
        except OSError:
            continue


def tgkill() -> Callable[[int, int, int], object]:
    """tgkill(2): to exactly this thread of this process, and OSError when it has ended (pthread_kill(3) must not be
    called then)."""
    try:
        function = ctypes.CDLL(None, use_errno=True).tgkill
    except (
        AttributeError
    ):  # a C library without it: kill(2) takes the number of a thread, and prefers that one
        return lambda _pid, thread, number: os.kill(thread, number)

    def call(pid: int, thread: int, number: int) -> None:
        if function(pid, thread, number):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return call
