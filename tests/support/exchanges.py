"""The corpus of exchanges: what client and server say to each other, in turn, byte for byte.

A file in tests/corpus/exchange is a YAML list of exchanges on one topic; one has

    title     what it is about; with the file's name it is the test's id
    rfc       the section that decides it
    talk      the steps, each a mapping with one key (below)
    app       what the application does: ``echo`` (the default: it reads the body to its end, and answers 200 with its
              method and body), ``unread`` (the same, with nothing read), ``slow`` (as echo, after 50 ms)
    asgi      instead: the messages that an ASGI application sends, with text for bytes
    wsgi      instead: {status, headers, body, streams, write} of a WSGI application; streams: its body is an iterator
    reads     whether these read the request's body first (left out: they do)
    by        the ways it is played, of [threads, async, wsgi]; left out: those that have an application
    seen      the requests that the application saw, each a mapping of the attributes that matter (method, path, query,
              version, body, whole); left out: not looked at
    log       a regular expression that a line of the daemon's log has to match

The steps:

    send      text to send, each character one byte; ``<x*20>`` stands for twenty times x
    read      exactly these bytes come next, Date fields left out
    answer    the same, for 200 with this body and Content-Length; ``last``: and with ``Connection: close``
    refused   an answer of the server's own with this status, ``Connection: close`` and one line of plain text
    end       the client half-closes
    reset     the client resets the connection
    called    the application has been called so often on this connection
    closed    the server closes, in order, and nothing more comes
    cut       the connection ends, in order or with a reset, and nothing more comes
    open      another request on the same connection is answered
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from .client import RawClient
from .corpus import FOLDER, read_yaml, to_bytes

PATIENCE: Final = 10.0
_KEYS: Final = {"title", "rfc", "talk", "app", "asgi", "wsgi", "reads", "by", "seen", "log"}
_STEPS: Final = {
    "send",
    "read",
    "end",
    "closed",
    "cut",
    "open",
    "called",
    "reset",
    "answer",
    "last",
    "refused",
}
_DATE: Final = re.compile(rb"^date: [^\r\n]+ GMT\r\n", re.MULTILINE)
_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b"
_REFUSED: Final = re.compile(
    rb"HTTP/1\.1 (\d+) ([^\r\n]+)\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: (\d+)\r\n"
    rb"(?:allow: GET\r\n)?connection: close\r\n\r\n([^\r\n]+\n)"
)
_STILL: Final = b"GET /-/open HTTP/1.1\r\nHost: example.com\r\n\r\n"
_STILL_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nopen"


@dataclass(frozen=True)
class Play:
    """One exchange; see the module for what its keys mean."""

    id: str
    rfc: str
    talk: list[dict[str, Any]]
    by: list[str]
    reads: bool = True
    sleeps: bool = False
    asgi: list[dict[str, Any]] | None = None
    wsgi: dict[str, Any] | None = None
    seen: list[dict[str, Any]] | None = None
    log: str = ""


def load_exchanges() -> list[Play]:
    """All of them, in the same order in every process."""
    return [
        _play(path, raw) for path in sorted((FOLDER / "exchange").glob("*.yaml")) for raw in read_yaml(path)
    ]


def _play(path: Path, raw: dict[str, Any]) -> Play:
    name = f"{path.stem}: {raw['title']}"
    unknown = (raw.keys() - _KEYS) | ({key for step in raw["talk"] for key in step} - _STEPS)
    if unknown:
        raise ValueError(f"{name}: unknown keys {sorted(unknown)}")
    own = [*["threads", "async"] * ("asgi" in raw), *["wsgi"] * ("wsgi" in raw)]
    app = raw.get("app", "echo")
    return Play(
        id=name,
        rfc=str(raw["rfc"]),
        talk=raw["talk"],
        by=raw.get("by", own or ["threads", "async", "wsgi"]),
        reads=raw.get("reads", app != "unread"),
        sleeps=app == "slow",
        asgi=raw.get("asgi"),
        wsgi=raw.get("wsgi"),
        seen=raw.get("seen"),
        log=raw.get("log", ""),
    )


def seen(port: int) -> dict[str, list[dict[str, Any]]]:
    """What the application saw of every play so far, by the client's address."""
    with RawClient(("127.0.0.1", port)) as client:
        return dict(json.loads(client.get("/-/seen").body))


class Talk:
    """The client's side of one exchange. ``run`` gives what was wrong, "" if nothing was."""

    def __init__(self, source: str, port: int) -> None:
        self._source, self._port = source, port
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self._over = ""  # "closed" or "reset", once it is

    def run(self, steps: list[dict[str, Any]]) -> str:
        """Take the steps until one goes wrong."""
        with self._sock:
            for number, step in enumerate(steps, 1):
                for action, argument in step.items():
                    fault = getattr(self, f"_{action}")(argument)
                    if fault:
                        return f"step {number} ({action}): {fault}"
        return ""

    def _send(self, text: str) -> str:
        try:
            self._sock.sendall(to_bytes(text))
        except OSError as exc:
            return f"could not be sent: {exc}"
        return ""

    def _end(self, _: bool) -> str:
        self._sock.shutdown(socket.SHUT_WR)
        return ""

    def _reset(self, _: bool) -> str:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        return ""

    def _read(self, text: str) -> str:
        return self._expect(to_bytes(text))

    def _answer(self, text: str) -> str:
        return self._expect(_OK % (len(to_bytes(text)), b"", to_bytes(text)))

    def _last(self, text: str) -> str:
        return self._expect(_OK % (len(to_bytes(text)), b"connection: close\r\n", to_bytes(text)))

    def _refused(self, status: int) -> str:
        while not (found := _REFUSED.match(self._data)) and self._more():
            pass
        if not found or int(found[1]) != status or len(found[4]) != int(found[3]):
            return f"wanted a refusal with {status}, came {self._data!r} {self._over}"
        self._data = self._data[found.end() :]
        return "" if found[2].decode() == HTTPStatus(status).phrase else f"wrong reason: {found[2]!r}"

    def _called(self, times: int) -> str:
        deadline = time.monotonic() + PATIENCE
        while len(seen(self._port).get(self._source, [])) < times:
            if time.monotonic() > deadline:
                return f"it was not called {times} times"
        return ""

    def _open(self, _: bool) -> str:
        self._sock.sendall(_STILL)
        return self._expect(_STILL_ANSWER)

    def _closed(self, _: bool) -> str:
        rest = self._rest()
        return f"it sent {rest!r} and was {self._over}" if rest or self._over != "closed" else ""

    def _cut(self, _: bool) -> str:
        rest = self._rest()
        return f"it sent {rest!r}" if rest else ""

    def _expect(self, wanted: bytes) -> str:
        while len(self._data) < len(wanted) and self._more():
            pass
        if not self._data.startswith(wanted):
            return f"wanted {wanted!r}, came {self._data!r} {self._over}"
        self._data = self._data[len(wanted) :]
        return ""

    def _rest(self) -> bytes:
        while self._more():
            pass
        return self._data

    def _more(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            self._over = "silent"
            return False
        except ConnectionResetError:
            self._over = "reset"
            return False
        self._data = _DATE.sub(b"", self._data + data)
        if not data:
            self._over = "closed"
        return bool(data)
