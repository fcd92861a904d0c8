"""The access log: one line each, no forged lines, and no worker that waits for the reader."""

from __future__ import annotations

import json
import logging
import os
import re
import threading

import pytest

from serverd.server import access_log
from serverd.server.access_log import AccessLog
from serverd.server.http.events import RequestReceived


def asked(target: bytes) -> RequestReceived:
    return RequestReceived("GET", target, target, b"", "1.1", [])


def written(form: str, target: bytes) -> str:
    read, write = os.pipe()
    log = AccessLog(form, "worker 0 g1", write)
    worker = log.for_worker()
    worker.add(("127.0.0.1", 5000), asked(target), 200, 13, 7.0, 7.0005)
    assert log.waiting
    log.flush()
    assert not log.waiting
    os.close(write)
    with os.fdopen(read) as file:
        return file.read()


def test_text() -> None:
    clock = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    pattern = clock + r'  access    worker 0 g1  127\.0\.0\.1 "GET /a\?b=c HTTP/1\.1" 200 13 0\.500ms\n'
    assert re.fullmatch(pattern, written("text", b"/a?b=c"))


def test_json() -> None:
    line = json.loads(written("json", b"/a?b=c"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line.pop("time"))
    assert line == {
        "level": "info",
        "process": "worker 0 g1",
        "logger": "serverd.access",
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/a?b=c",
        "version": "1.1",
        "status": 200,
        "bytes": 13,
        "ms": 0.5,
    }


def test_color() -> None:
    assert "\x1b[32m200\x1b[0m GET /a  " in written("color", b"/a")


@pytest.mark.parametrize("form", ["text", "json", "color"])
@pytest.mark.parametrize(
    "target", [b'/"', b"/\\", b'/" 200 1\n2026 access forged "', b"/\x1b[2J\x00\xff\x7f"]
)
def test_no_target_forges_a_line(form: str, target: bytes) -> None:
    line = written(form, target)
    assert line.count("\n") == 1
    assert all(char.isprintable() or char in "\n\x1b" for char in line)
    assert "\x1b[2J" not in line
    assert "\x1b" not in line or form == "color"
    if form == "json":
        assert json.loads(line)["target"].encode("latin-1") == target
    elif form == "text":
        assert line.count('"') == 2


def test_the_logs_thread_writes_what_comes_and_what_is_left_at_the_end() -> None:
    read, write = os.pipe()
    log = AccessLog("color", "worker 0 g1", write)
    worker = log.for_worker()
    log.start()
    for number in range(3):
        worker.add(None, asked(b"/%d" % number), 200, 0, 0.0, 0.0)
        assert b"/%d" % number in os.read(read, 1000)
    worker.add(None, asked(b"/last"), 200, 0, 0.0, 0.0)
    assert log.stop(10)
    os.close(write)
    with os.fdopen(read) as file:
        assert "/last" in file.read()


def test_a_reader_that_does_not_read_holds_nobody() -> None:
    read, write = os.pipe()
    log = AccessLog("text", "worker 0 g1", write)
    worker = log.for_worker()
    log.start()
    for number in range(5000):
        worker.add(None, asked(b"/%d" % number), 200, 0, 0.0, 0.0)
    assert not log.stop(0.05)
    with os.fdopen(read) as file:
        log_lines = sum(1 for _ in zip(range(5000), file, strict=False))
    assert log_lines == 5000
    os.close(write)


def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST_BLOCKS", 2)
    monkeypatch.setattr(access_log, "BLOCK", 5)
    read, write = os.pipe()
    log = AccessLog("json", "worker 0 g1", write)
    worker = log.for_worker()
    for number in range(27):
        worker.add(None, asked(b"/%d" % number), 200, 0, 0.0, 0.0)
    log.flush()
    worker.add(None, asked(b"/later"), 200, 0, 0.0, 0.0)
    log.flush()
    os.close(write)
    with os.fdopen(read) as file:
        lines = [json.loads(line) for line in file]
    assert [line.get("target") for line in lines] == [*(f"/{number}" for number in range(10)), None, "/later"]
    assert lines[10]["message"].startswith("17 access log lines were dropped")


def test_a_line_that_cannot_be_made_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "BLOCK", 2)
    monkeypatch.setattr(logging.getLogger("serverd"), "propagate", True)
    read, write = os.pipe()
    log = AccessLog("json", "worker 0 g1", write)
    worker = log.for_worker()
    worker.add(("127.0.0.1", 1), asked(b"/a"), 200, 0, 0.0, 0.0)
    broken = asked(b"/b")
    broken.target = None  # type: ignore[assignment]  # as no parser makes it
    worker.add(None, broken, 200, 0, 0.0, 0.0)  # the request that seals the block
    log.flush()
    worker.add(None, asked(b"/later"), 200, 0, 0.0, 0.0)
    log.flush()
    os.close(write)
    with os.fdopen(read) as file:
        assert [json.loads(line)["target"] for line in file] == ["/later"]
    assert [record.getMessage() for record in caplog.records] == ["2 lines of the access log are lost"]


def test_long_lines_that_nobody_reads_take_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST_BYTES", 50_000)
    monkeypatch.setattr(access_log, "BLOCK", 5)
    read, write = os.pipe()
    worker = AccessLog("json", "worker 0 g1", write).for_worker()
    for _ in range(100):
        worker.add(None, asked(b"/" + b"a" * 2000), 200, 0, 0.0, 0.0)
    data, lost = worker.take()
    assert 50_000 <= len(data) < 50_000 + 5 * 2500
    assert lost == 100 - data.count(b"\n")
    worker.add(None, asked(b"/"), 200, 0, 0.0, 0.0)
    assert worker.take()[0].count(b"\n") == 1, "there is room again"
    os.close(read)
    os.close(write)


def test_many_threads_lose_no_line() -> None:
    read, write = os.pipe()
    log = AccessLog("text", "worker 0 g1", write)
    workers = [log.for_worker() for _ in range(4)]
    seen: list[bytes] = []

    def drain() -> None:
        with os.fdopen(read, "rb") as file:
            seen.extend(file)

    def work(number: int) -> None:
        for turn in range(3000):
            workers[number].add(None, asked(b"/%d-%d" % (number, turn)), 200, 0, 0.0, 0.0)

    reader = threading.Thread(target=drain)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in (reader, *threads):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.flush()
    log.flush()
    os.close(write)
    reader.join(10)
    for number in range(4):
        mine = [line.split(b'"')[1].split()[1] for line in seen if b"/%d-" % number in line]
        assert mine == [b"/%d-%d" % (number, turn) for turn in range(3000)]


def test_a_reader_that_is_gone_does_no_harm() -> None:
    read, write = os.pipe()
    os.close(read)
    log = AccessLog("text", "worker 0 g1", write)
    log.for_worker().add(None, asked(b"/"), 200, 0, 0.0, 0.0)
    log.flush()
    assert not log.waiting
    os.close(write)
