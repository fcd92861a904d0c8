"""A run: blocks of inputs handed to processes or threads, counted, and written down so that a stop loses nothing.

Promises: input ``index`` of a seed is the same however many processes run it and in whatever order; the state on disk
holds exactly the blocks that were done; what breaks a promise is written to a file with all that is needed to see it
again. The functions that others call in parallel touch nothing shared but constants.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any, Final, NamedTuple

from .mutate import Rnd, numbers
from .reading import Finding, listen
from .requests import BATCH
from .targets import TARGETS

BLOCK: Final = 5000
# CPU time of one input with all its checks, in ns. The slowest takes some milliseconds; what takes this long, three
# times in a row, is a parser that does not go through its input a bounded number of times.
TOO_LONG: Final = 400_000_000
ROOT: Final = Path(__file__).resolve().parents[2]


class Found(NamedTuple):
    """An input that broke a promise: its number, what was wrong, the input as JSON can hold it."""

    number: int
    what: str
    plain: dict[str, Any]


class Block(NamedTuple):
    """What came of the inputs of one block: how often each thing was seen, and the findings."""

    seen: Counter[str]
    found: list[Found]
    cpu: float
    """Seconds of CPU time."""


def batch(target: str, seed: int, number: int) -> list[tuple[Any, Rnd]]:
    """BATCH inputs, each with the random numbers that its checks go on with."""
    chosen = TARGETS[target]
    chance = random.Random((seed << 48) | number)
    first = chosen.first[number * BATCH : (number + 1) * BATCH]
    made = chosen.batch(chance.random)
    return [(case, numbers(chance.getrandbits(62))) for case in (*first, *made[len(first) :])]


def made(target: str, seed: int, index: int) -> tuple[Any, Rnd]:
    """The input, and the random numbers that its checks go on with."""
    number, place = divmod(index, BATCH)
    return batch(target, seed, number)[place]


def run_block(target: str, seed: int, block: int, size: int = BLOCK) -> Block:
    """Examine the inputs from ``block * size`` on; ``size`` is a multiple of BATCH."""
    seen: Counter[str] = Counter()
    found: list[Found] = []
    examine = TARGETS[target].examine
    begin = time.thread_time()
    before = time.perf_counter_ns()  # on some machines ten times as quick to read as the CPU time
    index = block * size
    for number in range(block * size // BATCH, (block + 1) * size // BATCH):
        for case, rnd in batch(target, seed, number):
            what = ""
            try:
                for name in examine(case, rnd):
                    seen[name] += 1
            except Finding as finding:
                what = str(finding)
            except Exception as other:  # noqa: BLE001 - whatever a parser raises is what is looked for
                what = f"raised {type(other).__name__}: {other}"
            now = time.perf_counter_ns()
            if now - before > TOO_LONG:
                what = what or _slow(target, case, index)
                now = time.perf_counter_ns()
            before = now
            if what:
                seen["finding"] += 1
                found.append(Found(index, what, TARGETS[target].plain(case)))
            index += 1
    return Block(seen, found, time.thread_time() - begin)


def _slow(target: str, case: Any, index: int) -> str:
    """Why the input takes too long, "" if it does not: the shortest of three more times."""
    times = []
    for _ in range(3):
        started = time.thread_time_ns()
        TARGETS[target].examine(case, numbers(index))
        times.append(time.thread_time_ns() - started)
    return f"took {min(times) / 1e6:.0f} ms of CPU time" if min(times) > TOO_LONG else ""


def begin_worker() -> None:
    """What a process of the pool does first: Ctrl-C is for the one that hands out the blocks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin()


def begin() -> None:
    """For a process that does nothing but fuzz: one h11 for two, and the garbage collected less often."""
    listen()
    gc.freeze()
    gc.set_threshold(50_000)  # a tenth of the time went there; what is left over is small


def digest() -> str:
    """Of the code under test and the code that tests it, so that a run says what it ran on."""
    folders = ("server/http", "server/websocket", "tests/fuzz", "tests/corpus", "tests/support")
    files = sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
    )
    total = hashlib.sha256()
    for path in files:
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


class State:
    """What a run has done, in a JSON file. Belongs to the thread that hands out the blocks."""

    def __init__(self, path: Path, target: str, seed: int) -> None:
        self._path = path
        self._key: dict[str, Any] = {"target": target, "seed": seed, "block": BLOCK, "code": digest()}
        self.done = 0  # all blocks below are done
        self._ahead: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.inputs = 0
        self.seconds = 0.0
        self.cpu = 0.0
        self.goes_on = False
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            return
        if {name: saved.get(name) for name in self._key} == self._key:
            self.goes_on = True
            self.done, self._ahead = saved["done"], set(saved["ahead"])
            self.seen, self.inputs = Counter(saved["seen"]), saved["inputs"]
            self.seconds, self.cpu = saved["seconds"], saved["cpu"]

    def todo(self, blocks: int) -> Iterable[int]:
        """The numbers of the blocks that were not done, below ``blocks`` (0: without end)."""
        number = self.done
        skip = set(self._ahead)
        while not blocks or number < blocks:
            if number not in skip:
                yield number
            number += 1

    def add(self, number: int, block: Block) -> None:
        """Count a block."""
        self.seen += block.seen
        self.inputs += BLOCK
        self.cpu += block.cpu
        self._ahead.add(number)
        while self.done in self._ahead:
            self._ahead.remove(self.done)
            self.done += 1

    def save(self) -> None:
        """Write it down; the file is whole at any time."""
        whole = self._key | {
            "done": self.done,
            "ahead": sorted(self._ahead),
            "inputs": self.inputs,
            "seconds": round(self.seconds, 1),
            "cpu": round(self.cpu, 1),
            "seen": dict(self.seen.most_common()),
        }
        self._path.parent.mkdir(exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(whole, indent=1) + "\n")
        draft.replace(self._path)


class Run:
    """One run over a pool of processes or threads; ``go`` it. Belongs to the thread that calls it."""

    def __init__(self, state: State, folder: Path, target: str, seed: int) -> None:
        self._state = state
        self._folder = folder
        self._target = target
        self._seed = seed
        self.findings = 0

    def go(self, pool: Executor, width: int, blocks: int, every: float = 10.0) -> None:
        """Work through the blocks, ``width`` of them at once; a line on the terminal and a save every some seconds."""
        todo = iter(self._state.todo(blocks))
        running: dict[Future[Block], int] = {}
        begin = last = time.monotonic()
        before = self._state.seconds
        try:
            while True:
                while len(running) < width * 2 and (number := next(todo, None)) is not None:
                    running[pool.submit(run_block, self._target, self._seed, number)] = number
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    block = future.result()
                    self.take(running.pop(future), block)
                self._state.seconds = before + time.monotonic() - begin
                if time.monotonic() - last >= every:
                    last = time.monotonic()
                    self._state.save()
                    print(progress(self._state), flush=True)
        except BrokenExecutor:
            self.findings += 1
            print(f"FOUND: the interpreter died in one of the blocks {sorted(running.values())}")
        finally:
            self._state.save()
            for future in running:
                future.cancel()

    def take(self, number: int, block: Block) -> None:
        """Count a block that was done; keep and print what it found."""
        self._state.add(number, block)
        for found in block.found:
            self.findings += 1
            path = self._folder / f"found-{self._target}-{self._seed}-{found.number}.json"
            self._folder.mkdir(exist_ok=True)
            path.write_text(
                json.dumps(found._asdict() | {"target": self._target, "seed": self._seed}, indent=1) + "\n"
            )
            print(f"FOUND: {found.what[:600]}")
            print(f'  again: make fuzz ARGS="--replay {path}"', flush=True)


def progress(state: State) -> str:
    """One line."""
    accepted = sum(count for name, count in state.seen.items() if name.startswith("accepted"))
    pace = state.inputs / state.seconds if state.seconds else 0.0
    share = f"{accepted / state.inputs:.1%} accepted, " if accepted else ""
    return (
        f"{state.inputs:,} inputs in {state.seconds:,.0f} s ({pace:,.0f}/s, {state.cpu / state.inputs * 1e6:.0f} us of "
        f"CPU time each), {share}{state.seen['finding']} findings"
    )
