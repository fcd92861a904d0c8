"""A real daemon under clients and an application that want its log to say what it does not say, in every format.

Every line that it writes is a record, or an indented part of one; none has a byte that a terminal acts on; and nowhere,
at the most talkative level, is there the value of a header.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.daemon import Daemon, wait_until

from .test_master_lifecycle import InFlight

FORGED = "2026-01-31T12:30:01.123Z  error     master       all is lost"
FORGED_JSON = '{"time":"2026-01-31T12:30:01Z","level":"error","process":"master","message":"all is lost"}'
EVIL = (
    f"boom\n{FORGED}\n{FORGED_JSON}\r\x1b[2J\x1b]0;pwned\x07\x9b31m\u2028<0>panic\u202e\ud800\x7f\n<0>panic"
)
# In every header of every request, in cookies that the application sets, and in its environment.
SECRET = "hunter2hunter2"

APP = f"""
import asyncio, threading, time
from pathlib import Path

HERE = Path(__file__).parent
EVIL = {EVIL!a}
Evil = type("Evil\\n<0>", (Exception,), {{}})
kept = []

async def fail():
    raise Evil(EVIL)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        raise Evil(EVIL)
    path = scope["path"]
    if path == "/raise":
        raise Evil(EVIL)
    if path == "/late":
        asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0.01)
    if path == "/wait":
        (HERE / "entered").touch()
        while not (HERE / "release").exists():
            time.sleep(0.005)
    headers = [(b"set-cookie", b"session={SECRET}"), (b"content-length", b"2")]
    if path == "/refused":
        headers.append((b"x-broken", b"{SECRET}\\r\\nx: y"))
    if path == "/twice":
        headers.append((b"content-length", b"{SECRET}"))
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""

HEADERS = "".join(f"{name}: {SECRET}\r\n" for name in ("Authorization", "Cookie", "X-Api-Key", "Referer"))
WEBSOCKET = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {SECRET}\r\n"
RIGHT_WEBSOCKET = WEBSOCKET.replace(SECRET, "dGhlIHNhbXBsZSBub25jZQ==")

# Whole requests, as bytes: right ones, and all kinds of wrong ones with a secret in what is wrong.
REQUESTS = [
    *(
        f"GET {target} HTTP/1.1\r\nHost: x\r\n{HEADERS}Connection: close\r\n\r\n".encode()
        for target in (
            "/", "/raise", "/late", "/refused", "/twice", "/a'b", "/?x='",
            "/%0a%0d" + FORGED.replace(" ", "%20"), "/%1b[2J?%00%9b=%e2%80%a8",
            "/" + "a" * 7000, "/?q=" + "`{}|^" * 1000,
        )
    ),
    *(
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nCookie: " + SECRET.encode() + b"\r\nConnection: close\r\n\r\n"
        for target in (b"/\x1b[2J", b"/\xff\x85", b"/a\rb", b"/\n" + FORGED.encode(), b'/"', b"/\0", b"*", b"http://x/\x7f")
    ),
    f"GET / HTTP/1.1\r\nHost: x\r\nForwarded: {SECRET}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {SECRET}\x1b[2J\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nHost: {SECRET}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: {SECRET} y\r\n{HEADERS}\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET} {SECRET}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {SECRET}\x1b[2J\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {SECRET}\r\n\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nExpect: {SECRET}\r\n{HEADERS}\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\nX: {SECRET * 4000}\r\n\r\n".encode(),
    f"GET / HTTP/{SECRET}\r\nHost: x\r\n{HEADERS}\r\n".encode(),
    f"GET / HTTP/1.1\r\nHost: x\r\n{HEADERS}{WEBSOCKET}\r\n".encode(),
    f"GET /ws HTTP/1.1\r\nHost: x\r\n{HEADERS}{RIGHT_WEBSOCKET}\r\n".encode(),
    f"POST / HTTP/1.1\r\nHost: x\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n{SECRET}\r\n".encode(),
    f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SECRET}".encode(),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + SECRET.encode() * 10,
]  # fmt: skip


def answer_to(port: int, request: bytes) -> bytes:
    """Everything that comes back until the server closes, or a WebSocket that is open has nothing to say."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(request)
        received = b""
        try:
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                received += data
        except OSError:  # reset: there was more that it would not read
            pass
        return received


TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z  [a-z]+ +(master|admin|worker \d g\d) *  ")
COLOR = re.compile(r"\x1b\[2m\d\d:\d\d:\d\d\x1b\[0m  \x1b\[36m(master|admin|worker 0 g\d) *\x1b\[0m  ")
PAINT = re.compile(r"\x1b\[[0-9;]*m")


def check(form: str, lines: list[str]) -> Iterator[dict[str, object]]:
    """That each of `lines` is a record or a part of one; JSON's as objects."""
    for line in lines:
        assert "�" not in line
        if form == "json":
            assert line.isprintable(), ascii(line)
            assert line.isascii()
            pairs = json.loads(line, object_pairs_hook=lambda pairs: pairs)
            assert len({key for key, _ in pairs}) == len(pairs)
            entry = dict(pairs)
            assert entry.keys() >= {"time", "level", "process", "logger"}
            assert entry["level"] in ("debug", "info", "warning", "error")
            yield entry
            continue
        if form == "text":
            assert line.isprintable(), ascii(line)
            assert TEXT.match(line) or line.startswith("    "), ascii(line)
        else:
            assert PAINT.sub("", line).isprintable(), ascii(line)
            assert COLOR.match(line) or line.startswith(" " * 10), ascii(line)
        assert not line.startswith("<"), "journald would take that for a priority"


@pytest.mark.parametrize("form", ["text", "color", "json"])
def test_no_client_and_no_application_forges_a_line_and_no_header_is_in_one(
    tmp_path: Path, form: str
) -> None:
    config = {
        "env": {"TOKEN": SECRET},
        "logging": {"format": form, "level": "debug"},
        "admin": {"listen": f"unix:{tmp_path}/a"},
        "control": f"{tmp_path}/c",
        "timeouts": {"request": "50ms", "head": "500ms", "body": "500ms"},
        "workers": {"threads": 3},
    }
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        port = daemon.port
        with ThreadPoolExecutor(6) as clients:
            for received in clients.map(partial(answer_to, port), REQUESTS):
                quoted = received.replace(b"set-cookie: session=" + SECRET.encode(), b"")
                assert SECRET.encode() not in quoted, "an answer of ours quotes the request"
        waiting = InFlight(daemon)
        daemon.wait_for_line("GET /wait .*takes longer than")
        shown = [admin(tmp_path / "a", path) for path in ("/status", "/metrics", "/")]
        if form == "json":  # the same in all three, and each is an interpreter's start
            shown += [command(daemon, *words) for words in (["status"], ["status", "--json"], ["stacks"])]
        processes = [daemon.pid, *daemon.children()]
        shown += [Path(f"/proc/{pid}/cmdline").read_text() for pid in processes]
        (victim,) = daemon.workers()
        os.kill(victim, signal.SIGKILL)  # the flight recorder speaks
        daemon.wait_for_line(r"held 1 request: GET /wait")
        daemon.wait_for_line(r"worker 0 g1 \(pid \d+\) is ready", after=daemon.mark() - 3)
        answer_to(port, REQUESTS[0])
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0
        waiting.join()
        assert not [text for text in [*shown, daemon.log] if SECRET in text]
        entries = list(check(form, daemon.lines))
        if form == "json":
            boom = [entry for entry in entries if "all is lost" in str(entry.get("exception"))]
            assert {entry["logger"] for entry in boom} == {"serverd.error", "asyncio"}
            assert not [entry for entry in entries if entry.get("message") == "all is lost"]
        else:
            assert daemon.count("all is lost") >= 3
            assert not [
                line for line in daemon.lines if line.startswith(FORGED[:10]) and "all is lost" in line
            ]


def command(daemon: Daemon, *words: str) -> str:
    """What `serverd WORDS` prints."""
    argv = [sys.executable, "-m", "serverd", *words, "--control", str(daemon.folder / "c")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    assert all(line.isprintable() for line in done.stdout.splitlines())
    return done.stdout + done.stderr


def admin(path: Path, target: str) -> str:
    """What the admin plane answers."""
    with RawClient(str(path)) as client:
        response = client.get(target)
        assert response.status == 200
        return response.body.decode()


def test_a_query_stays_out_of_everything_when_it_is_asked_for(tmp_path: Path) -> None:
    """The access line is the only place that has one."""
    config = {"logging": {"query": False}, "timeouts": {"request": "50ms"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        for path in ("/", "/raise", "/refused"):
            answer_to(
                daemon.port,
                f"GET {path}?t={SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
            )
        daemon.wait_for_line(r'"GET /refused\?\(hidden\) HTTP/1.1"')
        assert SECRET not in daemon.log


def test_what_is_read_slowly_is_not_torn_apart(tmp_path: Path) -> None:
    """Two children write long lines into a pipe that is full most of the time: each line arrives whole."""
    config = {"workers": {"processes": 2, "threads": 2}, "logging": {"format": "text", "level": "info"}}
    with Daemon(tmp_path, app=APP, config=config) as daemon:
        daemon.wait_ready()
        os.kill(daemon.pid, 0)
        target = "/" + "a" * 2500
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 50
        with RawClient(("127.0.0.1", daemon.port)) as one, RawClient(("127.0.0.1", daemon.port)) as two:
            for client in (one, two):
                client.send(request)
            for client in (one, two):
                for _ in range(50):
                    assert client.response().status == 200
        wait_until(lambda: daemon.count(r"HTTP/1.1\" 200 2 ") == 100, "all lines")
        list(check("text", daemon.lines))
