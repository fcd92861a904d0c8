"""The fuzz target: a short run finds nothing, its mix is worth running, and it does find faults that are planted."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serverd.server.http import HeadLimits, general
from serverd.server.http.events import ProtocolError

from .fuzz import __main__ as command
from .fuzz import pieces as p
from .fuzz import requests
from .fuzz.checks import examine_every_cut
from .fuzz.run import ROOT, Block, Found, Run, State, made, run_block
from .fuzz.targets import TARGETS

SEED = 1
INPUTS = 8000
# What no input can bring about, and why.
UNREACHABLE = {
    # The second door behind our own checks: an input that shows one of them is a gap in ours.
    "the request head is not valid HTTP/1.1",
    "the request line can be read in two ways",
}


@pytest.fixture(scope="module")
def short_run() -> Block:
    return run_block("requests", SEED, 0, INPUTS)


def test_a_short_run_finds_nothing(short_run: Block) -> None:
    assert short_run.found == []


def test_the_mix_is_worth_running(short_run: Block) -> None:
    """Neither all refused at the first byte, nor all plain: every verdict has its share."""
    share = {name: count / INPUTS for name, count in short_run.seen.items()}
    assert share["accepted by strict"] > 0.25
    assert share["accepted by general only"] > 0.03
    assert share["refused with 400"] > 0.1
    assert share["incomplete"] > 0.01
    assert share["behind it: by strict"] > 0.05
    assert {f"refused with {status}" for status in (400, 413, 414, 417, 431, 501, 505)} <= share.keys()


def test_every_reason_to_refuse_is_met(short_run: Block) -> None:
    """As many of the messages in the source as there are: what is not met is not fuzzed."""
    met = {name.partition(" ")[2] for name in short_run.seen if name[:3].isdigit()}
    assert met == messages() - UNREACHABLE


def messages() -> set[str]:
    """Every text with a space in the modules that refuse, but for documentation and what only a developer can cause."""
    found = set()
    folder = Path(general.__file__).parent
    for name in ("general", "framing", "grammar"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        skip = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RuntimeError":
                skip |= {id(argument) for argument in node.args}
            text = node.value if isinstance(node, ast.Constant) and id(node) not in skip else None
            if isinstance(text, str) and " " in text:
                found.add(text)
    return found


def test_frames_find_nothing() -> None:
    block = run_block("frames", SEED, 0, 1600)
    assert block.found == []
    assert block.seen["goes on"] > 400
    assert block.seen["fast path took all"] > 100
    assert block.seen["closed by the client"] > 10
    assert {name.split(" ")[2] for name in block.seen if name.startswith("failed")} >= {
        "1002",
        "1007",
        "1009",
    }


def test_proxies_find_nothing() -> None:
    block = run_block("proxies", SEED, 0, 2400)
    assert block.found == []
    assert block.seen["opening: read"] > 400
    assert block.seen["fields: read"] > 200
    refused = {name for name in block.seen if not name.startswith(("opening:", "fields:"))}
    assert len(refused) >= 20


WORDS = st.sampled_from(
    sorted({*p.METHODS, *p.TARGETS, *p.VERSIONS, *p.TOKENS, *p.HOSTS, *p.CODINGS, *p.EXTENSIONS, *p.BAD_ENDS})
)
LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a?b HTTP/1.1",
        b"POST / HTTP/1.0",
        b"Host: a",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Expect: 100-continue",
        b"",
        b"5",
        b"0",
        b"hello",
    ]
)


@settings(max_examples=150)
@given(
    st.lists(st.one_of(LINES, LINES, LINES, st.lists(WORDS, max_size=4).map(b"".join)), max_size=12),
    st.sampled_from([requests.BIG, requests.SMALL]),
)
@example(
    [b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"", b"5", b"hello", b"0", b"", b"GET "],
    requests.BIG,
)
def test_every_cut_of_lines_put_together(lines: list[bytes], limits: HeadLimits) -> None:
    """Hypothesis looks for the shortest stream that breaks a promise, cut at each of its places."""
    examine_every_cut(requests.Case(b"\r\n".join(lines), limits))


def test_an_input_follows_from_its_seed_and_number() -> None:
    for target in TARGETS:
        first = [some_input(target, 5, index) for index in range(9000, 9020)]
        assert [some_input(target, 5, index) for index in range(9000, 9020)] == first
        assert [some_input(target, 6, index) for index in range(9000, 9020)] != first


def some_input(target: str, seed: int, index: int) -> tuple[object, list[float]]:
    case, rnd = made(target, seed, index)
    return TARGETS[target].plain(case), [rnd() for _ in range(5)]


def test_threads_count_what_one_thread_counts() -> None:
    """The parsers in several threads at once: without a GIL that is a test of its own."""
    alone = [run_block("requests", 3, block, 320) for block in range(3, 7)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda block: run_block("requests", 3, block, 320), range(3, 7)))
    assert [block.seen for block in together] == [block.seen for block in alone]


def refuse_oddly(*_: object) -> None:
    raise ProtocolError(400, "this is not ASCII: é")


# A place in the code, and what a programmer might have got wrong there.
FAULTS = {
    "any Host is taken": ("strict.valid_host", lambda value: True),
    "any target is taken": ("strict.bad_target", lambda path, query: ""),
    "any name is taken": ("strict.is_token", lambda name: True),
    "TE is not looked at": ("strict.takes_trailers", lambda version, values: False),
    "Connection is not looked at": ("strict.intentions", lambda request, options, upgrade: None),
    "control bytes are taken": ("general.CONTROL", b"\x00"),
    "sizes and codings go together": ("general.body_framing", lambda version, lengths, codings: (0, False)),
    "a bug in the general parser": ("general._check_host", lambda headers, version: headers[0][0][99]),
    "a message that cannot be logged": ("general._check_host", refuse_oddly),
    "any chunk extension is taken": (
        "framing._EXTENSIONS",
        type("Any", (), {"fullmatch": lambda *_: True})(),
    ),
    "more of a line never adds anything": ("adds_nothing", lambda buffer, data, limits: True),
    "folded lines are taken": ("general._field", lambda line: (b"x", line)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them within a few thousand inputs: a target that cannot fail shows nothing."""
    place, wrong = FAULTS[fault]
    monkeypatch.setattr(f"serverd.server.http.{place}", wrong)
    assert any(run_block("requests", 2, block, 1000).found for block in range(1, 8))


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_command_runs_goes_on_and_shows_an_input_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--seed", "9", "--processes", "1", "--folder", str(tmp_path))
    run = fuzz("--inputs", "5000", *arguments)
    assert run.returncode == 0, run.stderr
    assert "accepted by strict" in run.stdout
    state = json.loads((tmp_path / "requests-9.json").read_text())
    assert (state["seed"], state["inputs"], state["done"]) == (9, 5000, 1)
    again = fuzz("--inputs", "5000", *arguments)
    assert "after 5,000 inputs of an earlier run" in again.stdout
    found = tmp_path / "found.json"
    plain = TARGETS["requests"].plain(requests.Case(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", requests.BIG))
    found.write_text(json.dumps({"target": "requests", "what": "nothing", "plain": plain}))
    assert command.main(["--replay", str(found)]) == 0
    assert "['accepted by strict', 'complete request']" in capsys.readouterr().out
    assert command.main(["--replay", "9:4321"]) == 0


def test_a_finding_is_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = State(tmp_path / "state.json", "requests", 3)
    run = Run(state, tmp_path, "requests", 3)
    plain = TARGETS["requests"].plain(requests.CORPUS[0])
    run.take(7, Block(Counter(finding=1, incomplete=4999), [Found(35_001, "two readings", plain)], 1.5))
    path = tmp_path / "found-requests-3-35001.json"
    assert json.loads(path.read_text())["plain"] == plain
    assert f'make fuzz ARGS="--replay {path}"' in capsys.readouterr().out
    state.save()
    state = State(tmp_path / "state.json", "requests", 3)
    assert (state.goes_on, state.done, state.inputs, state.seen["finding"]) == (True, 0, 5000, 1)
    blocks = iter(state.todo(9))
    assert list(blocks) == [0, 1, 2, 3, 4, 5, 6, 8]
