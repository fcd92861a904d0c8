"""What pages and API share: the lifespan state, ids in a request, the check of a note, the guard against other sites.

Nothing here keeps state of its own; any thread may call any function. `State` is what the lifespan yields:
each request gets its own shallow copy, whose `database` and rooms all threads share (see database.py and
room.py).
"""

import os
import re
import sys
import threading
from typing import TypedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from .database import MAX_ID, Database
from .room import Room

MAX_TITLE = 200  # characters
MAX_TEXT = 100_000  # characters
ID = re.compile(r"[0-9]{1,19}", re.ASCII)


class State(TypedDict):
    """Made once for each process, by the lifespan."""

    database: Database
    changes: Room  # told after each new note
    chat: Room
    boot: str  # random: tells one run of the lifespan from another
    started: str  # UTC, ISO 8601


class Served(TypedDict):
    """Who answers: shown at the foot of each page and by /api/status."""

    pid: int
    thread: str
    python: str
    gil: bool


def served() -> Served:
    """The calling thread and its process."""
    return Served(
        pid=os.getpid(),
        thread=threading.current_thread().name,
        python=".".join(map(str, sys.version_info[:3])),
        gil=getattr(sys, "_is_gil_enabled", lambda: True)(),
    )


def path_id(request: Request[State]) -> int:
    """The id in the path; 404 for what cannot be one: a number SQLite could not hold, or no number at all."""
    text = request.path_params["id"]
    if not ID.fullmatch(text) or int(text) > MAX_ID:
        raise HTTPException(404, f"there is no {text[:40]!r} here")
    return int(text)


def number(request: Request[State], name: str, default: int, most: int) -> int:
    """A number in the query, from 0 to `most`; 400 for anything else."""
    text = request.query_params.get(name, str(default))
    if not ID.fullmatch(text) or int(text) > most:
        raise HTTPException(400, f"{name} must be a number from 0 to {most}")
    return int(text)


def check_note(title: object, text: object) -> tuple[str, str, dict[str, str]]:
    """Title and text as they will be stored, and what is wrong with which field (empty: all is well)."""
    problems = {}
    for name, value, most in (("title", title, MAX_TITLE), ("text", text, MAX_TEXT)):
        if not isinstance(value, str):
            problems[name] = "must be text"
        elif len(value) > most:
            problems[name] = f"must be at most {most} characters"
        elif not storable(value):
            problems[name] = "must be valid Unicode"
    if "title" not in problems and not str(title).strip():
        problems["title"] = "must not be empty"
    if problems:
        return "", "", problems
    return str(title).strip(), str(text).replace("\r\n", "\n"), {}


def storable(value: str) -> bool:
    """JSON can spell half of a surrogate pair, which is not a character and has no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class RefuseForeignSites:
    """Middleware: another site's page must not write or listen here through the visitor's browser.

    Browsers say where a request comes from: in Sec-Fetch-Site (Fetch Metadata, W3C), and for a WebSocket, which no
    same-origin policy guards, in Origin (RFC 6455, 10.2). Programs send neither. There are no cookies to steal here,
    but a server on 127.0.0.1 is within reach of every page its user opens.
    """

    def __init__(self, app: ASGIApp) -> None:
        """`app` is what is protected."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            if Headers(scope=scope).get("sec-fetch-site", "none") not in ("same-origin", "none"):
                refusal = "this request was sent by another site\n"
                await PlainTextResponse(refusal, status_code=403)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            headers = Headers(scope=scope)
            if "origin" in headers and urlsplit(headers["origin"]).netloc != headers.get("host"):
                await WebSocketClose()(scope, receive, send)  # before it was accepted: 403
                return
        await self.app(scope, receive, send)


def api_error(
    status: int, message: str, headers: dict[str, str] | None = None, **more: object
) -> JSONResponse:
    """An error as the API tells it: {"error": "...", ...}."""
    return JSONResponse({"error": message, **more}, status_code=status, headers=headers)
