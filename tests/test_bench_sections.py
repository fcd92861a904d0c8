"""The parts that the benchmark's sections are made of: trials, memory of a tree, and the load for event streams.

`benchmarks` is no package of ours; its package `bench` is imported from its folder, as `benchmarks/run.py` does it.
"""

import importlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("c_program", "event_streams", "load", "machine", "report", "start_up", "trials", "whole_memory")
    return SimpleNamespace(**{name: importlib.import_module(f"bench.{name}") for name in names})


def a_trial(bench: SimpleNamespace, kind: str, python: str, *seconds: float) -> Any:
    trial = bench.trials.Trial(bench.report.Result(f"{kind} 1.0 (its mode)", kind, python), "hello")
    trial.rounds = [{"seconds": one, "errors": 0} for one in seconds]
    return trial


def test_ratios_are_made_round_by_round(bench: SimpleNamespace) -> None:
    one = a_trial(bench, "serverd", "3.14t", 1, 10, 1)
    other = a_trial(bench, "uvicorn", "3.14t", 2, 20, 3)
    assert bench.trials.paired(one, other, "seconds") == 0.5


def test_the_best_of_a_kind_is_one_that_was_measured(bench: SimpleNamespace) -> None:
    slow, fast = a_trial(bench, "uvicorn", "3.14t", 3), a_trial(bench, "uvicorn", "3.13", 2)
    every = [slow, fast, a_trial(bench, "uvicorn", "3.12"), a_trial(bench, "granian", "3.13", 1)]
    assert bench.trials.best(every, "uvicorn", "seconds", least=True) is fast
    assert bench.trials.best(every, "uvicorn", "seconds") is slow
    assert bench.trials.best(every, "hypercorn", "seconds") is None


def test_what_fails_is_told_in_its_row_and_ends_nothing(bench: SimpleNamespace) -> None:
    trial = a_trial(bench, "serverd", "3.14t")
    with bench.trials.attempt(trial):
        raise bench.load.LoadError("answers wrongly")
    table = bench.trials.table(("seconds", "errors"), [trial], lambda _: ("1", "0"))
    assert table.splitlines()[-1] == "| serverd 1.0 (its mode) | 3.14t | not measured: answers wrongly |  |"
    assert not bench.trials.right([trial])
    assert bench.trials.left_out([trial]) == []
    with pytest.raises(ZeroDivisionError), bench.trials.attempt(trial):
        _ = 1 / 0


def test_of_each_peer_the_quicker_interpreter_goes_on(bench: SimpleNamespace) -> None:
    slow, fast = a_trial(bench, "uvicorn", "3.14t", 9, 3), a_trial(bench, "uvicorn", "3.13", 4, 2)
    ours, failed = a_trial(bench, "serverd", "3.14t", 5, 5), a_trial(bench, "granian", "3.13")
    failed.problem = "does not start"
    bench.start_up._choose([slow, fast, ours, failed])
    assert slow.problem == "3.00 s in the first starts, 2.00 s on 3.13"
    assert (fast.problem, ours.problem, failed.problem) == (None, None, "does not start")
    assert not any(trial.rounds for trial in (slow, fast, ours, failed))


def test_the_own_pages_of_a_mapped_file_are_what_counts(bench: SimpleNamespace) -> None:
    text = """\
55d0-55d1 r-xp 00001000 08:01 42 /usr/bin/python3
Rss:                 100 kB
Pss:                  10 kB
Anonymous:             4 kB
7f00-7f01 rw-p 00000000 00:00 0 [heap]
Rss:                 500 kB
Anonymous:           500 kB
VmFlags: rd wr mr
"""
    assert list(bench.whole_memory._of_files(text)) == [(("r-xp", "00001000", "08:01", "42"), 96)]


def test_pages_that_strangers_share_count_in_full(bench: SimpleNamespace) -> None:
    assert bench.whole_memory.whole_bytes(os.getpid()) >= bench.machine.memory_bytes(os.getpid())


def stream(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def counted(bench: SimpleNamespace, parts: Sequence[bytes], *, closes: bool) -> dict[str, Any]:
    """What event_load says of one stream that sends `parts`, and then nothing, or its end."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    program = bench.c_program.compiled(bench.event_streams.SOURCE)
    done = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            for part in parts:
                client.sendall(part)
                done.wait(0.02)  # each shall come by itself
            if not closes:
                done.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            command = [str(program), str(listener.getsockname()[1]), "1", "1"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=20)
        finally:
            done.set()
            thread.join()
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout.removeprefix("RESULT "))
    return found


def test_events_are_counted_however_they_are_cut(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.c_program, "CACHE", tmp_path)
    events = [b'data: {"id":%010d,"text":"Hello, World!"}\n\n' % number for number in range(1, 6)]
    whole = HEAD + stream(events[0], events[1] + events[2], events[3][:17], events[3][17:] + events[4])
    cuts = [0, len(HEAD) + 1, *range(len(HEAD) + 30, len(whole), 37), len(whole)]
    parts = [whole[begin:end] for begin, end in itertools.pairwise(cuts)]
    found = counted(bench, parts, closes=False)
    assert (found["requests"], found["bytes"]) == (5, 5 * 48)
    assert [found[kind] for kind in ("read", "status", "timeout")] == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong", [b'data: {"id":0000000003,"text":"Hello, World!"}\n\n', b'data: {"id":0000000002,"text":"hello']
)
def test_a_wrong_event_is_an_error(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: bytes
) -> None:
    monkeypatch.setattr(bench.c_program, "CACHE", tmp_path)
    first = b'data: {"id":0000000001,"text":"Hello, World!"}\n\n'
    found = counted(bench, [HEAD + stream(first), stream(wrong)], closes=False)
    assert (found["requests"], found["status"]) == (1, 1)


def test_a_stream_that_ends_is_an_error(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.c_program, "CACHE", tmp_path)
    first = b'data: {"id":0000000001,"text":"Hello, World!"}\n\n'
    found = counted(bench, [HEAD + stream(first)], closes=True)
    assert (found["requests"], found["read"]) == (1, 1)
