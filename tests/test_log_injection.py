"""Nothing that a client or an application can bring into the log looks like a record of ours, or like half of one.

Properties over all formats: whatever a record holds, it is one line (JSON), or one line with indented ones behind it
(text and colour), of which none has a control byte, none is longer than a pipe takes whole, and none begins as a
record does. The real daemon is in process/test_log_injection.py.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serverd.config import LoggingConfig
from serverd.config.logs import WHOLE, in_pieces, setup_logging, shorten
from serverd.config.model import LogFormat
from serverd.server.access_log import AccessLog
from serverd.server.http.events import RequestReceived

FEW = settings(max_examples=50)
FORGED = "2026-01-31T12:30:01.123Z  error     master       all is lost"
# What a text may be tried with: anything, newlines among it, and what terminals, journald and JSON take for more.
HOSTILE = st.one_of(
    st.text(st.characters()),
    st.lists(
        st.sampled_from(
            [FORGED, "\n", "\r", "\x1b[2J", "\x1b]0;x\x07", "\x85", "\u2028", "\u202e", "\x7f", "\x9b31m", "<0>",
             '","level":"x"}', "{", "\x00", "\t", "    ", "\ud800", "x" * 5000, "\U0001f600" * 2000, "\x00" * 9000]
        ),
        max_size=8,
    ).map("".join),
)  # fmt: skip
HEADS = {
    "text": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  [a-z]+ +  worker 0 g1  "),
    "color": re.compile(
        r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m  \x1b\[36mworker 0 g1\x1b\[0m  (\x1b\[[0-9;]+m[a-z]+:\x1b\[0m )?"
    ),
}  # fmt: skip
INDENT = {"text": "    ", "color": " " * 10}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger("serverd")
    handlers, level, propagate, last = root.handlers[:], root.level, root.propagate, logging.lastResort
    yield
    root.handlers[:], root.propagate, logging.lastResort = handlers, propagate, last
    root.setLevel(level)


def failing(name: str, text: str, note: str) -> BaseException:
    """An exception whose class, message and note are somebody else's."""
    try:
        exc = type(name, (ValueError,), {})(text)
        exc.add_note(note)
        raise exc
    except ValueError as caught:
        return caught


def check_text(form: LogFormat, written: str) -> None:
    assert written.endswith("\n")
    first, *rest = written[:-1].split("\n")
    head = HEADS[form].match(first)
    assert head
    assert first[head.end() :].isprintable()
    for line in rest:
        assert line.startswith(INDENT[form])
        assert line.isprintable()
    assert max(len(line.encode()) for line in (first, *rest)) < WHOLE


def check_json(written: str, keys: set[str]) -> dict[str, Any]:
    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert written[:-1].isascii()
    assert written[:-1].isprintable()
    assert len(written) < 48 * 1024  # journald's LineMax=
    pairs = json.loads(written, object_pairs_hook=lambda pairs: pairs)
    assert len({key for key, _ in pairs}) == len(pairs)
    assert {key for key, _ in pairs} <= keys
    return dict(pairs)


@pytest.mark.parametrize("form", ["text", "color", "json"])
@FEW
@given(message=HOSTILE, error=HOSTILE, note=HOSTILE, name=HOSTILE)
@example(message=f"GET /\n{FORGED}", error=f"no\n{FORGED}\n<0>panic", note="", name="Odd")
def test_a_record_is_a_record_whatever_it_holds(
    form: LogFormat, message: str, error: str, note: str, name: str
) -> None:
    out = io.StringIO()
    setup_logging(LoggingConfig(format=form), process="worker 0 g1", stream=out)
    exc = failing(name.replace("\0", ""), error, note)
    logging.getLogger("serverd.error").error("%s", message, exc_info=exc)
    written = out.getvalue().encode("utf-8", "backslashreplace").decode()
    if form == "json":
        entry = check_json(written, {"time", "level", "process", "logger", "message", "exception"})
        assert (entry["level"], entry["process"], entry["logger"]) == (
            "error",
            "worker 0 g1",
            "serverd.error",
        )
        if len(message) < 1000:
            assert entry["message"] == message
    else:
        check_text(form, written)


@pytest.mark.parametrize("form", ["text", "color", "json"])
@FEW
@given(message=HOSTILE, logger=HOSTILE)
def test_so_is_one_of_a_logger_that_nobody_has_set_up(form: LogFormat, message: str, logger: str) -> None:
    """asyncio's, for instance, which tells of a task that has failed, with what its exception says."""
    out = io.StringIO()
    setup_logging(LoggingConfig(format=form), process="worker 0 g1", stream=out)
    assert logging.lastResort is not None
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, message, None, None)
    logging.lastResort.handle(record)
    written = out.getvalue().encode("utf-8", "backslashreplace").decode()
    if form == "json":
        check_json(written, {"time", "level", "process", "logger", "message"})
    else:
        check_text(form, written)


def access_line(form: str, client: str, method: str, target: bytes, *, query: bool = True) -> str:
    read, write = os.pipe()
    log = AccessLog(form, "worker 0 g1", write, query=query)
    request = RequestReceived(method, target, target, b"", "1.1", [])
    log.for_worker().add((client, 5000), request, 200, 13, 7.0, 7.0005)
    log.flush()
    os.close(write)
    with os.fdopen(read, encoding="ascii", newline="") as file:
        return file.read()


@pytest.mark.parametrize("form", ["text", "color", "json"])
@FEW
@given(
    client=HOSTILE,
    method=HOSTILE,
    target=st.one_of(st.binary(), HOSTILE.map(lambda text: text.encode("utf-8", "surrogatepass"))),
)
def test_an_access_line_is_a_line_whatever_was_asked_for(
    form: str, client: str, method: str, target: bytes
) -> None:
    written = access_line(form, client, method, target)
    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert len(written) < WHOLE
    if form == "json":
        keys = {
            "time",
            "level",
            "process",
            "logger",
            "client",
            "method",
            "target",
            "version",
            "status",
            "bytes",
            "ms",
        }
        entry = check_json(written, keys)
        assert set(entry) == keys
        assert (entry["level"], entry["status"], entry["bytes"]) == ("info", 200, 13)
    else:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", written[:-1]) if form == "color" else written[:-1]
        assert plain.isprintable()
        assert '" 200 13 0.500ms' in plain or form == "color"


@pytest.mark.parametrize("form", ["text", "color", "json"])
def test_a_query_can_be_kept_out(form: str) -> None:
    assert "secret" in access_line(form, "::1", "GET", b"/reset?token=secret&x=1")
    hidden = access_line(form, "::1", "GET", b"/reset?token=secret&x=1", query=False)
    assert "secret" not in hidden
    assert "/reset?(hidden)" in hidden
    assert "hidden" not in access_line(form, "::1", "GET", b"/reset", query=False)


@pytest.mark.parametrize(("form", "target"), [("text", b"/" + b"a" * 20_000), ("json", b"/" + b'"' * 20_000)])
def test_a_long_target_is_cut_and_its_length_named(form: str, target: bytes) -> None:
    assert "...(20001 bytes)" in access_line(form, "::1", "GET", target)


def test_a_record_is_cut_in_the_middle() -> None:
    out = io.StringIO()
    setup_logging(LoggingConfig(format="json"), process="master", stream=out)
    logging.getLogger("serverd.error").error("begin%send", "\x00" * 100_000)
    entry = json.loads(out.getvalue())
    assert entry["message"].startswith("begin")
    assert entry["message"].endswith("end")
    assert "characters left out" in entry["message"]
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 4) == "ab\n… 3 characters left out …\nfg"


@FEW
@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") * 90), max_size=12))
def test_pieces_are_whole_lines_that_a_pipe_takes_whole(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    pieces = list(in_pieces(data))
    assert b"".join(pieces) == data
    for piece in pieces:
        assert piece.endswith(b"\n")
        assert len(piece) <= WHOLE or piece.count(b"\n") == 1


def test_a_slow_reader_finds_every_line_whole() -> None:
    """Two logs share a pipe that is full most of the time, as those of two children do."""
    read, write = os.pipe()
    logs = [AccessLog("text", f"worker {number} g1", write) for number in range(2)]
    requests = [RequestReceived("GET", b"/" + char * 700, b"/", b"", "1.1", []) for char in (b"a", b"b")]
    for log, request in zip(logs, requests, strict=True):
        worker = log.for_worker()
        for _ in range(300):
            worker.add(("127.0.0.1", 5000), request, 200, 13, 7.0, 7.0005)
    threads = [threading.Thread(target=log.flush) for log in logs]
    for thread in threads:
        thread.start()
    received = bytearray()
    while received.count(b"\n") < 600:
        received += os.read(read, 999)
    for thread in threads:
        thread.join()
    whole = re.compile(
        rb'\S+Z  access    worker [01] g1  127\.0\.0\.1 "GET /(a{700}|b{700}) HTTP/1\.1" 200 13 0\.500ms'
    )
    assert all(whole.fullmatch(line) for line in received.splitlines())
    os.close(read)
    os.close(write)
