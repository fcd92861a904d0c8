"""The control protocol as bytes: requests in any pieces, everything that is no request, and answers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from serverd.supervisor import control_lines
from serverd.supervisor.control_lines import COMMANDS, LONGEST_LINE, Lines, Refusal, Request, answers, parse


def taken(lines: Lines) -> Iterator[Request | Refusal]:
    while (item := lines.take()) is not None:
        yield item


@pytest.mark.parametrize("do", COMMANDS)
def test_every_command_is_a_line(do: str) -> None:
    fields = {"by": 1} if do == "scale" else {}
    assert parse(control_lines.request(do, **fields)) == Request(do, fields)


def test_requests_arrive_in_any_pieces() -> None:
    data = b"".join([control_lines.request("status"), b"\n  \n", control_lines.request("reload", wait=True)])
    chance = random.Random(7)
    for _ in range(200):
        lines = Lines()
        found: list[Request | Refusal] = []
        rest = data
        while rest:
            size = chance.randint(1, len(rest))
            lines.feed(rest[:size])
            rest = rest[size:]
            found += taken(lines)
        assert found == [Request("status", {}), Request("reload", {"wait": True})]
        assert not lines.partial


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"reload", "expected a JSON object on one line, got 'reload'"),
        (b"\xff\x00", "expected a JSON object on one line, got '\\ufffd\\x00'"),
        (b"[" * 50_000, "expected a JSON object on one line, got '" + "[" * 60 + "'…"),
        (b"[]", "expected a JSON object, got '[]'"),
        (b"{}", 'expected "v": 1, got null; use the serverd command of the version that runs'),
        (b'{"v": 2, "do": "status"}', 'expected "v": 1, got 2; use the serverd command of the version that runs'),
        (b'{"v": true, "do": "status"}', 'expected "v": 1, got true; use the serverd command of the version that runs'),
        (b'{"v": 1}', f'"do": expected one of {", ".join(COMMANDS)}, got null'),
        (b'{"v": 1, "do": ["status"]}', f'"do": expected one of {", ".join(COMMANDS)}, got a list'),
        (b'{"v": 1, "do": "exec"}', f'"do": expected one of {", ".join(COMMANDS)}, got "exec"'),
        (b'{"v": 1, "do": "status", "of": 1}', 'status: no field "of" (there are: none)'),
        (b'{"v": 1, "do": "stop", "now": 1}', 'stop: no field "now" (there are: fast, wait)'),
        (b'{"v": 1, "do": "stop", "fast": 1}', 'stop: "fast": expected true or false, got 1'),
        (b'{"v": 1, "do": "scale", "by": true}', 'scale: "by": expected a whole number, got true'),
        (b'{"v": 1, "do": "scale"}', 'scale: expected either "by" or "to"'),
        (b'{"v": 1, "do": "scale", "by": 1, "to": 2}', 'scale: expected either "by" or "to"'),
        (b'{"v": 1, "do": "scale", "to": 0}', 'scale: "to": expected a whole number from 1 to 1024, got 0'),
        (b'{"v": 1, "do": "scale", "by": 0}', 'scale: "by": expected a whole number up to ±1024, got 0'),
        (b'{"v": 1, "do": "scale", "by": -1025}', 'scale: "by": expected a whole number up to ±1024, got -1025'),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_in_a_line(line: bytes, error: str) -> None:
    assert parse(line) == Refusal(error)
    lines = Lines()
    lines.feed(line + b"\n" + control_lines.request("status"))
    assert list(taken(lines)) == [Refusal(error), Request("status", {})], "the next one is understood"


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_line_that_is_too_long_is_refused_once_and_nothing_of_it_is_kept(pieces: int) -> None:
    lines = Lines()
    found: list[Request | Refusal] = []
    for _ in range(pieces):
        lines.feed(b"x" * (LONGEST_LINE + 1))
        found += taken(lines)
    lines.feed(b"\n" + control_lines.request("stop"))
    found += taken(lines)
    error = f"a request may have {LONGEST_LINE} bytes, and this one has more"
    assert found == [Refusal(error, final=True)]
    assert not lines.partial


def test_the_longest_line_is_taken() -> None:
    request = control_lines.request("status")[:-1]
    line = request + b" " * (LONGEST_LINE - len(request))
    lines = Lines()
    lines.feed(line)
    assert lines.take() is None
    lines.feed(b"\n")
    assert lines.take() == Request("status", {})


def test_bytes_at_random_never_raise() -> None:
    chance = random.Random(11)
    alphabet = b'{}[]":, \\ntrue1v do status scale by to \n\xff\x00'
    for _ in range(2000):
        lines = Lines()
        lines.feed(bytes(chance.choice(alphabet) for _ in range(chance.randint(0, 80))) + b"\n")
        assert all(isinstance(item, Request | Refusal) for item in taken(lines))


def test_an_answer_is_events_and_one_last_line() -> None:
    data = control_lines.event("taken") + control_lines.success(wanted=2) + b"never looked at"
    found = list(answers(bytes([byte]) for byte in data))
    assert found == [{"v": 1, "event": "taken"}, {"v": 1, "ok": True, "wanted": 2}]
    assert list(answers(iter([control_lines.failure("no")]))) == [{"v": 1, "ok": False, "error": "no"}]
    assert list(answers(iter([control_lines.event("taken"), b"{"]))) == [{"v": 1, "event": "taken"}]


@pytest.mark.parametrize("line", [b"[]\n", b'{"v": 2, "ok": true}\n', b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_is_no_answer_raises(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an answer of version 1|Expecting value"):
        list(answers(iter([line])))


def test_what_is_said_is_one_line_whatever_is_in_it() -> None:
    line = control_lines.failure("a\nb\u2028\x1b[0m")
    assert line.count(b"\n") == 1
    assert json.loads(line)["error"] == "a\nb\u2028\x1b[0m"
