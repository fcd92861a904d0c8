"""The log: its three shapes, what it does with hostile text, and that one record is one write."""

import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverd.config import LoggingConfig
from serverd.config.logs import LineHandler, escape_text, resolve_format, setup_logging, write_all
from serverd.config.model import LogFormat, LogLevel

logger = logging.getLogger("serverd.test")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger("serverd")
    handlers, level, propagate = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.propagate = handlers, propagate
    root.setLevel(level)


def set_up(form: LogFormat, level: LogLevel = "info", stream: io.StringIO | None = None) -> io.StringIO:
    stream = stream or io.StringIO()
    setup_logging(LoggingConfig(level=level, format=form), process="worker 0 g1", stream=stream)
    return stream


def fail() -> None:
    raise ValueError("no\x1b[2J good")


def test_color_is_pleasant_to_read() -> None:
    out = set_up("color", "debug")
    logger.info("hello %s", "world")
    logger.warning("careful")
    logger.error("broken")
    logger.debug("detail")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert re.sub(r"\d\d:\d\d:\d\d", "12:34:56", plain).splitlines() == [
        "12:34:56  worker 0 g1  hello world",
        "12:34:56  worker 0 g1  warning: careful",
        "12:34:56  worker 0 g1  error: broken",
        "12:34:56  worker 0 g1  detail",
    ]
    assert "\x1b[33mwarning:\x1b[0m careful" in out.getvalue()
    assert "\x1b[31merror:\x1b[0m broken" in out.getvalue()


def test_text_has_the_same_columns_on_every_line() -> None:
    out = set_up("text")
    logger.info("hello")
    logger.critical("goodbye")
    times = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", out.getvalue())
    assert times == "TIME  info      worker 0 g1  hello\nTIME  critical  worker 0 g1  goodbye\n"


def test_json_is_one_object_on_one_line() -> None:
    out = set_up("json")
    try:
        fail()
    except ValueError:
        logger.exception("first\nsecond “quoted” \u2028 \x7f")
    (line,) = out.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    entry = json.loads(line)
    moment = datetime.fromisoformat(entry.pop("time"))
    assert moment.utcoffset() is not None
    trace = entry.pop("exception")
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ValueError: no\x1b[2J good")
    assert entry == {
        "level": "error",
        "process": "worker 0 g1",
        "logger": "serverd.test",
        "message": "first\nsecond “quoted” \u2028 \x7f",
    }


@pytest.mark.parametrize(("form", "indent"), [("text", "    "), ("color", "          ")])
def test_a_traceback_stays_readable_and_harmless(form: LogFormat, indent: str) -> None:
    out = set_up(form)
    try:
        fail()
    except ValueError:
        logger.exception("it failed")
    first, *rest = out.getvalue().rstrip("\n").split("\n")
    assert "it failed" in first
    assert rest[0] == f"{indent}Traceback (most recent call last):"
    assert rest[-1] == f"{indent}ValueError: no\\x1b[2J good"
    assert all(line.startswith(indent) for line in rest)


@pytest.mark.parametrize("form", ["text", "color"])
def test_text_from_outside_cannot_pass_for_a_record(form: LogFormat) -> None:
    out = set_up(form)
    logger.info(
        "path %s", "/x\n2026-01-01T00:00:00.000Z  info  master  all is well\r\x1b[1A\u202eevil\u2028x\udc80"
    )
    first, second = out.getvalue().rstrip("\n").split("\n")
    assert first.endswith("path /x")
    assert second.startswith("    ")
    assert (
        second.strip()
        == r"2026-01-01T00:00:00.000Z  info  master  all is well\r\x1b[1A\u202eevil\u2028x\udc80"
    )


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain", "plain"),
        ("Grüße 漢字 🙂", "Grüße 漢字 🙂"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x00\x1b\x7f\x9b", "\\x00\\x1b\\x7f\\x9b"),
        ("\u2028\u202e\U000e0001\ud800", "\\u2028\\u202e\\U000e0001\\ud800"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_is_escaped(text: str, escaped: str) -> None:
    assert escape_text(text) == escaped


@given(st.text(st.characters()))
def test_escaped_text_is_printable_and_keeps_what_was(text: str) -> None:
    escaped = escape_text(text)
    assert escaped.isprintable()
    assert [char for char in text if char.isprintable() and char not in escaped] == []
    escaped.encode()


@pytest.mark.parametrize(
    ("form", "stream", "environ", "resolved"),
    [
        ("auto", Terminal(), {}, "color"),
        ("auto", Terminal(), {"NO_COLOR": "1"}, "text"),
        ("auto", Terminal(), {"NO_COLOR": ""}, "color"),
        ("auto", Terminal(), {"TERM": "dumb"}, "text"),
        ("auto", io.StringIO(), {}, "json"),
        ("color", io.StringIO(), {"NO_COLOR": "1"}, "color"),
        ("json", Terminal(), {}, "json"),
        ("text", Terminal(), {}, "text"),
    ],
)
def test_which_format_is_used(
    form: LogFormat,
    stream: io.StringIO,
    environ: dict[str, str],
    resolved: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert resolve_format(form, stream) == resolved


def test_a_closed_stream_gets_json() -> None:
    stream = io.StringIO()
    stream.close()
    assert resolve_format("auto", stream) == "json"


def test_levels_and_the_last_set_up_counts() -> None:
    first = set_up("text", "debug")
    second = set_up("text", "warning")
    logger.info("not shown")
    logger.warning("shown")
    assert first.getvalue() == ""
    assert second.getvalue().endswith("shown\n")
    assert second.getvalue().count("\n") == 1
    assert not logging.getLogger("serverd").propagate


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with open(file, "w", encoding="utf-8") as stream:
        setup_logging(LoggingConfig(format="json"), process="worker 0 g1", stream=stream)
        barrier = threading.Barrier(4)

        def talk(name: str) -> None:
            barrier.wait()
            for number in range(200):
                logger.info("%s %d %s", name, number, "x" * 500)

        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    messages = [json.loads(line)["message"].split()[:2] for line in file.read_text().splitlines()]
    assert sorted(messages) == sorted([name, str(number)] for name in "abcd" for number in range(200))


def test_one_record_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    read_end, write_end = os.pipe()
    with open(read_end, "rb"), open(write_end, "w", encoding="utf-8") as stream:
        setup_logging(LoggingConfig(format="text"), process="master", stream=stream)

        def write(fd: int, data: bytes) -> int:
            assert fd == write_end
            written.append(bytes(data))
            return len(data)

        monkeypatch.setattr(os, "write", write)
        logger.info("first\nsecond")
        monkeypatch.undo()
    assert len(written) == 1
    assert written[0].endswith(b"  first\n    second\n")


def test_a_log_that_nobody_reads_does_no_harm() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w", encoding="utf-8") as stream:
        setup_logging(LoggingConfig(format="text"), process="master", stream=stream)
        logger.info("into the void")


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    size = 300_000  # more than a pipe holds
    with open(read_end, "rb") as reader, open(write_end, "wb"):
        collected: list[bytes] = []
        thread = threading.Thread(target=lambda: collected.append(reader.read(size)))
        thread.start()
        write_all(write_end, b"x" * size)
        thread.join()
    assert collected == [b"x" * size]


def test_a_reader_that_stalls_costs_a_line_and_not_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serverd.config.logs._STALLED", 1)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with open(read_end, "rb"), open(write_end, "wb"):
        write_all(write_end, b"x" * 300_000)


def test_a_faulty_call_is_reported_and_not_raised(capsys: pytest.CaptureFixture[str]) -> None:
    out = set_up("text")
    assert isinstance(logging.getLogger("serverd").handlers[0], LineHandler)
    logger.info("%d", "not a number")
    assert out.getvalue() == ""
    assert "--- Logging error ---" in capsys.readouterr().err
