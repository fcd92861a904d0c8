"""The corpus of requests, valid and hostile, and a bytes-only server end that can be fed with them in any pieces.

A file in tests/corpus/valid or tests/corpus/invalid is a YAML list of cases on one topic; a case has

    title     what it is about; with the file's name it is the test's id
    rfc       the section that decides it
    send      everything the client sends, each character one byte; or instead of it the parts
    line      request line, default "GET / HTTP/1.1"
    fields    header lines after "Host: example.com"; `host: false` leaves that one out
    body      what follows the head
    limits    {line, head, headers}, if not the server's defaults
    strict    valid only: whether the strict parser has to take it; left out: it may

``<x*20>`` anywhere in them stands for twenty times x. A valid case lists in `requests` what must come out, one
mapping for each request with the attributes of RequestReceived that matter (text for bytes), `headers` as pairs of
name and value, `body`; `rest` is what is kept of a head that is not complete. An invalid case has `status`, and
`after: n` if n complete requests come before the fault.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from serverd.server.http import HeadLimits, ProtocolError, RequestReceived, parse_request
from serverd.server.http.framing import ChunkedDecoder, SizedDecoder

FOLDER = Path(__file__).parent.parent / "corpus"
LIMITS = {"line": 8192, "head": 32768, "headers": 100}
_SENT = {"title", "rfc", "send", "line", "host", "fields", "body", "limits"}
_KEYS = {"valid": _SENT | {"strict", "requests", "rest"}, "invalid": _SENT | {"status", "after"}}


@dataclass(frozen=True)
class Case:
    """One case of the corpus; see the module for its keys."""

    id: str
    rfc: str
    data: bytes
    limits: HeadLimits
    limits_as_given: tuple[int, int, int]
    status: int = 0
    after: int = 0
    strict: bool | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    rest: bytes = b""


def load(kind: str) -> list[Case]:
    """All cases of "valid" or "invalid"."""
    return [
        _case(kind, path, raw) for path in sorted((FOLDER / kind).glob("*.yaml")) for raw in read_yaml(path)
    ]


def read_yaml(path: Path) -> list[dict[str, Any]]:
    """A file of the corpus. With libyaml where it is there: ten times as quick, for thousands of lines."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    cases: list[dict[str, Any]] = yaml.load(path.read_text(encoding="ascii"), loader)  # noqa: S506 - it is safe
    return cases


def _case(kind: str, path: Path, raw: dict[str, Any]) -> Case:
    unknown = raw.keys() - _KEYS[kind]
    if unknown:
        raise ValueError(f"{path.name}: {raw.get('title')}: unknown keys {sorted(unknown)}")
    limits = {**LIMITS, **raw.get("limits", {})}
    return Case(
        id=f"{path.stem}: {raw['title']}",
        rfc=str(raw["rfc"]),
        data=to_bytes(raw["send"] if "send" in raw else _assemble(raw)),
        limits=HeadLimits(**limits),
        limits_as_given=(limits["line"], limits["head"], limits["headers"]),
        status=raw.get("status", 0),
        after=raw.get("after", 0),
        strict=raw.get("strict"),
        requests=raw.get("requests", []),
        rest=to_bytes(raw.get("rest", "")),
    )


def _assemble(raw: dict[str, Any]) -> str:
    host = [] if raw.get("host") is False else ["Host: example.com"]
    lines = [raw.get("line", "GET / HTTP/1.1"), *host, *raw.get("fields", []), "", ""]
    return "\r\n".join(lines) + str(raw.get("body", ""))


def to_bytes(text: str) -> bytes:
    """One byte for each character, ``<x*20>`` written out."""
    return re.sub(r"<(.[^*<>]*)\*(\d+)>", lambda match: match[1] * int(match[2]), text).encode("latin-1")


@dataclass
class Outcome:
    """What a server end made of the bytes: complete requests with their bodies, then perhaps an error."""

    requests: list[tuple[RequestReceived, bytes]]
    status: int
    message: str
    rest: bytes
    """What is held back because something is still missing."""


class ServerEnd:
    """Heads and bodies one after the other, as a worker reads them, without a socket."""

    def __init__(self, limits: HeadLimits, *, force_general: bool) -> None:
        self._limits = limits
        self._force_general = force_general
        self._buffer = b""
        self._request: RequestReceived | None = None
        self._decoder: SizedDecoder | ChunkedDecoder = SizedDecoder(0)
        self._body = b""
        self.requests: list[tuple[RequestReceived, bytes]] = []

    def feed(self, data: bytes) -> None:
        """Take one piece. Raises ProtocolError."""
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        if self._request is None:
            request = parse_request(self._buffer, self._limits, force_general=self._force_general)
            if request is None:
                return False
            self._request = request
            self._buffer = self._buffer[request.head_size :]
            self._decoder = ChunkedDecoder() if request.chunked else SizedDecoder(request.content_length)
            self._body = b""
        if not self._decoder.complete:
            if not self._buffer:
                return False
            self._body += self._decoder.feed(self._buffer)
            self._buffer = self._decoder.rest
        if self._decoder.complete:
            self.requests.append((self._request, self._body))
            self._request = None
        return bool(self._buffer)

    @property
    def rest(self) -> bytes:
        """Bytes of a head that is not complete."""
        return self._buffer


def play(pieces: Iterable[bytes], limits: HeadLimits, *, force_general: bool) -> Outcome:
    """Feed the pieces to a new server end until they end, or until it refuses one."""
    end = ServerEnd(limits, force_general=force_general)
    try:
        for piece in pieces:
            end.feed(piece)
    except ProtocolError as error:
        return Outcome(end.requests, error.status, error.message, b"")
    return Outcome(end.requests, 0, "", end.rest)


def cuts(data: bytes) -> Iterator[tuple[str, Sequence[bytes]]]:
    """The same bytes as TCP might deliver them: whole, by line, by byte, and at random places."""
    yield "whole", [data]
    yield "by line", data.splitlines(keepends=True)
    yield "by byte", [data[at : at + 1] for at in range(len(data))]
    for seed in range(4):
        yield f"random {seed}", cut(data, seed)


def cut(data: bytes, seed: int) -> list[bytes]:
    """``data`` in pieces of random sizes, the same for the same seed."""
    chance = random.Random(seed)
    places = sorted(chance.sample(range(len(data) + 1), min(len(data), chance.randint(1, 12))))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
