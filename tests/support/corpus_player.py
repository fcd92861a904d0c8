"""Plays cases of the corpus to a real daemon over real sockets, many at once, and compares what client and app saw.

Each play is a connection from an address of its own (all of 127.0.0.0/8 is loopback), by which the daemon's
application knows it: see ``corpus_app``. What must happen is what the bytes-only server end makes of the same bytes;
tests/test_http_corpus.py holds that against the corpus.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from serverd.server.http import RequestReceived

from .client import RawClient
from .corpus import Case, Outcome, cut, play
from .corpus_app import STILL_OPEN, all_limits, way
from .exchanges import seen

# Enough to keep the daemon busy while clients wait for it.
CLIENTS: Final = 12
# By byte that many of a large request's first and last bytes, and what is between them in one piece.
_SINGLE: Final = 300


@dataclass(frozen=True)
class Play:
    """One case on one connection. source: the client's address."""

    case: Case
    how: str
    pieces: Sequence[bytes]
    force_general: bool
    source: str

    def __str__(self) -> str:
        return f"{self.case.id} ({self.how}, {'general' if self.force_general else 'strict first'})"


@dataclass(frozen=True)
class Expected:
    """What has to happen: the requests that the application sees, and how the connection ends."""

    outcome: Outcome
    served: int  # of the outcome's requests; one that ends the connection is the last
    refused: int  # the status of a refusal behind them, 0 if there is none
    stays: bool  # whether the connection is good for another request


def expected(case: Case) -> Expected:
    """By the bytes alone, and by what they say of the connection."""
    outcome = play([case.data], case.limits, force_general=False)
    for number, (request, _) in enumerate(outcome.requests, 1):
        if not request.keep_alive:
            return Expected(outcome, number, 0, False)
    # Without a rest the last byte belongs to the last request; an incomplete body has no rest either.
    whole = (
        outcome.status == 0 and outcome.rest == b"" and bool(outcome.requests) and _ends_there(case, outcome)
    )
    return Expected(outcome, len(outcome.requests), outcome.status, whole)


def _ends_there(case: Case, outcome: Outcome) -> bool:
    behind = play([case.data + b"GET /-/x HTTP/1.1\r\nHost: a\r\n\r\n"], case.limits, force_general=False)
    return len(behind.requests) == len(outcome.requests) + 1


def pieces(data: bytes, how: str) -> Sequence[bytes]:
    """``data`` cut as ``how`` says: whole, by line, by byte, or "random N"."""
    if how == "whole":
        return [data]
    if how == "by line":
        return data.splitlines(keepends=True)
    if how == "by byte":
        if len(data) <= 2 * _SINGLE:
            return [data[at : at + 1] for at in range(len(data))]
        return [*pieces(data[:_SINGLE], how), data[_SINGLE:-_SINGLE], *pieces(data[-_SINGLE:], how)]
    return cut(data, int(how.removeprefix("random ")))


class Player:
    """Plays to the daemon on ``port``. wsgi: its application is one, which sees variables and not fields."""

    def __init__(self, port: int, *, wsgi: bool = False) -> None:
        self._port = port
        self._wsgi = wsgi
        self._expected: dict[str, Expected] = {}
        self._number = 0  # of the last play: an address is never used again

    def play(self, cases: Iterable[Case], hows: Sequence[str], forces: Sequence[bool]) -> list[str]:
        """Play every case in each of the ways; what went wrong, a line for each."""
        wanted = list(self._plays(cases, hows, forces))
        for each in wanted:
            if each.case.id not in self._expected:
                self._expected[each.case.id] = expected(each.case)
        with ThreadPoolExecutor(CLIENTS) as pool:
            faults = list(pool.map(self._play, wanted))
        notes = seen(self._port)
        faults += [self._compare(each, notes.get(each.source, [])) for each in wanted]
        return [fault for fault in faults if fault]

    def _plays(self, cases: Iterable[Case], hows: Sequence[str], forces: Sequence[bool]) -> Iterator[Play]:
        limits = {given: number for number, given in enumerate(all_limits())}
        for case, how, force in itertools.product(cases, hows, forces):
            self._number += 1
            high, low = divmod(self._number, 256)
            source = f"127.{way(limits[case.limits_as_given], force_general=force)}.{high}.{low}"
            yield Play(case, how, pieces(case.data, how), force, source)

    def _play(self, each: Play) -> str:
        wanted = self._expected[each.case.id]
        try:
            with Talker(each.source, self._port) as client:
                client.send_all(each.pieces)
                self._hear(client, each.case, wanted)
        except (AssertionError, OSError, EOFError) as exc:
            return f"{each}: {type(exc).__name__}: {exc}"
        return ""

    def _hear(self, client: Talker, case: Case, wanted: Expected) -> None:
        for request, body in wanted.outcome.requests[: wanted.served]:
            response = client.final(request.method, may_continue=request.expect_continue)
            assert response.status == 200, response
            assert response.header("transfer-encoding") is None, response
            text = b"" if request.method == "HEAD" else f"{request.method} ".encode() + body
            assert response.body == text, response
            assert (response.header("connection") == "close") == (
                request.version == "1.1" and not request.keep_alive
            ), response
        if wanted.refused:
            asked_for_head = not wanted.served and case.data.startswith(b"HEAD ")
            response = client.final("HEAD" if asked_for_head else "GET", may_continue=True)
            assert response.status == wanted.refused, response
            assert response.header("connection") == "close", response
        elif wanted.stays:
            client.send(f"GET {STILL_OPEN} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.response().body == b"open"
            return
        elif wanted.served == len(wanted.outcome.requests):
            try:
                client.half_close()
            except OSError as exc:
                # The last answer was to a request that ends the connection (HTTP/1.0), and the server had closed before
                # what the case sends behind it came: TCP answers that with a reset.
                if exc.errno != errno.ENOTCONN or wanted.outcome.requests[-1][0].keep_alive:
                    raise
        assert client.closed(), "it sent something behind its last response"

    def _compare(self, each: Play, notes: list[dict[str, Any]]) -> str:
        wanted = self._expected[each.case.id]
        requests = wanted.outcome.requests[: wanted.served]
        should = [self._should_see(request, body) for request, body in requests]
        return "" if notes == should else f"{each}: the application saw {notes}, and not {should}"

    def _should_see(self, request: RequestReceived, body: bytes) -> dict[str, Any]:
        return {
            "method": request.method,
            "path": self._path(request),
            "query": request.query.decode("latin-1"),
            "version": request.version,
            "headers": _variables(request, body) if self._wsgi else _text(request.headers),
            "body": body.decode("latin-1"),
            "whole": True,
        }

    def _path(self, request: RequestReceived) -> str:
        # RAW_URI is the target as sent.
        target = request.target.partition(b"?")[0] if self._wsgi else request.raw_path
        return str(target.decode("latin-1"))


def _text(headers: list[tuple[bytes, bytes]]) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _variables(request: RequestReceived, body: bytes) -> list[list[str]]:
    """The fields as WSGI has them (PEP 3333, RFC 3875 4.1.18), in the order of their first coming."""
    variables: dict[str, str] = {}
    for name, value in _text(request.headers):
        key = name.upper().replace("-", "_")
        if "_" in name or (request.chunked and key == "TRANSFER_ENCODING"):
            continue
        key = key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"
        joint = "; " if key == "HTTP_COOKIE" else ","
        variables[key] = f"{variables[key]}{joint}{value}" if key in variables else value
    if request.chunked:
        variables["CONTENT_LENGTH"] = str(len(body))
    return [[key, value] for key, value in variables.items()]


class Talker(RawClient):
    """A raw client from an address of its own, whose pieces go out one by one."""

    def __init__(self, source: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), source=source)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """Send each piece by itself, as long as the server takes them."""
        try:
            for piece in pieces:
                self.sock.sendall(piece)
        except OSError:
            pass  # it has refused what came before, and said so

    def final(self, method: str, *, may_continue: bool) -> Any:
        """The next response that is not 100; one 100 may come first if ``may_continue``."""
        response = self.response(method)
        if response.status == 100 and may_continue:
            assert not response.headers
            response = self.response(method)
        return response
