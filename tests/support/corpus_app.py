"""What a daemon serves while the corpus is played to it: applications that remember what they saw of each play.

Runs in the daemon's child. A play is known by its client's address, which is its own: 127.A.B.C, where A says how its
heads are parsed (``way``: which limits, and whether h11 reads every head), and B and C are its number. With an A of
``EXCHANGES`` it is one of the corpus of exchanges, and the number chooses how the application behaves. What was seen is
told at ``/-/seen``. Nothing of the server is changed but which parser and which limits a connection gets.
"""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any, Final

from serverd.server.connection import Connection
from serverd.server.http import HeadLimits
from serverd.server.memo import RequestMemo
from serverd.server.reader import RequestReader

from .corpus import LIMITS, load, to_bytes
from .exchanges import Play, load_exchanges

EXCHANGES: Final = 200
STILL_OPEN: Final = "/-/open"
SEEN: Final = "/-/seen"

_read = RequestReader.read
_readers: dict[tuple[RequestReader, int], RequestReader] = {}
_seen: dict[str, list[dict[str, Any]]] = {}
_plays: list[Play] = load_exchanges()


def all_limits() -> list[tuple[int, int, int]]:
    """Every set of limits that a case of the corpus has; the first are the usual ones."""
    usual = (LIMITS["line"], LIMITS["head"], LIMITS["headers"])
    rare = {case.limits_as_given for kind in ("valid", "invalid") for case in load(kind)}
    return [usual, *sorted(rare - {usual})]


def way(limits: int, *, force_general: bool) -> int:
    """The second number of the address of a play with those limits (by index)."""
    number = 1 + 2 * limits + force_general
    assert number < EXCHANGES
    return number


def patch_reader() -> None:
    """From now on a connection's heads are read as its address says."""
    heads = [HeadLimits(*limits) for limits in all_limits()]

    def read(self: RequestReader, conn: Connection) -> Any:
        number = int(conn.peer[0].split(".")[1]) if conn.peer else 0
        if not 0 < number < EXCHANGES:
            return _read(self, conn)
        reader = _readers.get((self, number))
        if reader is None:
            reader = copy.copy(self)
            reader._limits = heads[(number - 1) // 2]
            reader._force_general = (number - 1) % 2 == 1
            for memo in ("_known", "_claiming"):  # what is remembered was read with other limits
                setattr(reader, memo, RequestMemo())
            _readers[self, number] = reader
        return _read(reader, conn)

    RequestReader.read = read  # type: ignore[method-assign]


def _note(address: str, method: str, path: str, query: str, version: str, headers: Any) -> dict[str, Any]:
    """Remember a request before anything of it is done; its body is filled in as it comes."""
    note = {
        "method": method, "path": path, "query": query, "version": version,
        "headers": headers, "body": "", "whole": False,
    }  # fmt: skip
    _seen.setdefault(address, []).append(note)
    return note


def _play(address: str) -> Play | None:
    _, way_, high, low = map(int, address.split("."))
    return _plays[high * 256 + low] if way_ == EXCHANGES else None


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """See the module."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    address = scope["client"][0]
    if scope["path"] in (SEEN, STILL_OPEN):
        body = json.dumps(_seen).encode() if scope["path"] == SEEN else b"open"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    note = _note(
        address,
        scope.get("method", "WEBSOCKET"),
        scope["raw_path"].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        scope["http_version"],
        headers,
    )
    play = _play(address)
    reads = play is None or play.reads
    if play is not None and play.sleeps:
        await asyncio.sleep(0.05)
    if reads and scope["type"] == "http":
        await _read_asgi(note, receive)
    if play is None or play.asgi is None:
        body = f"{note['method']} {note['body']}".encode("latin-1")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    for message in play.asgi:
        await send(_as_message(message))


async def _read_asgi(note: dict[str, Any], receive: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has left before the end of its body")
        note["body"] += message["body"].decode("latin-1")
        if not message["more_body"]:
            note["whole"] = True
            return


def _as_message(given: dict[str, Any]) -> dict[str, Any]:
    """A message as the corpus writes it, with bytes for its texts."""
    message = dict(given)
    if "headers" in message:
        message["headers"] = [(to_bytes(name), to_bytes(value)) for name, value in message["headers"]]
    if "body" in message:
        message["body"] = to_bytes(message["body"])
    if "links" in message:
        message["links"] = [to_bytes(link) for link in message["links"]]
    return message


def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
    """See the module."""
    if environ["PATH_INFO"] in (SEEN, STILL_OPEN):
        start_response("200 OK", [])
        return [json.dumps(_seen).encode() if environ["PATH_INFO"] == SEEN else b"open"]
    address = environ["REMOTE_ADDR"]
    path, _, query = environ["RAW_URI"].partition("?")
    headers = [[key, value] for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_"))]
    note = _note(
        address, environ["REQUEST_METHOD"], path, query, environ["SERVER_PROTOCOL"].partition("/")[2], headers
    )
    play = _play(address)
    if play is None or play.reads:
        while piece := environ["wsgi.input"].read(700):
            note["body"] += piece.decode("latin-1")
        note["whole"] = True
    if play is None or play.wsgi is None:
        start_response("200 OK", [])
        return [f"{note['method']} {note['body']}".encode("latin-1")]
    answer = play.wsgi
    write = start_response(answer["status"], [(name, value) for name, value in answer.get("headers", [])])
    for piece in answer.get("write", []):
        write(to_bytes(piece))
    pieces = [to_bytes(piece) for piece in answer.get("body", [])]
    return iter(pieces) if answer.get("streams") else pieces
