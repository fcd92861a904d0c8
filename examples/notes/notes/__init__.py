"""A small real application: pages, a JSON API, uploads, a chat and live events. `notes:app` is its ASGI callable.

    database.py   every query; says which thread may touch what, and why that is safe
    api.py        the JSON API                        site.py    the pages' handlers, upload and download
    live.py       the chat, new notes as they come    room.py    how threads reach the event loop
    clock.py      a stream that needs no others       pages.py   the pages' HTML       markup.py  escaping
    web.py        what they share

The environment variable DATABASE names the database file; a relative path is relative to the folder of
server.yaml (`notes.db` there when unset). Where that folder is read-only, starting fails with one line that
says so.
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from . import api, clock, live, site
from .database import Database
from .room import Room
from .web import RefuseForeignSites, State, api_error

FOLDER = Path(__file__).resolve().parent

__all__ = ["app"]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    """What exists once in the process; every request of every thread finds it in its state.

    On serverd this runs on the home loop, which lives as long as the process and serves event streams and WebSockets:
    rooms made here belong to it.
    """
    database = Database(FOLDER.parent / os.environ.get("DATABASE", "notes.db"))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        yield State(
            database=database,
            changes=Room(backlog=1),  # "look again": one such message says as much as ten
            chat=Room(backlog=100),
            boot=secrets.token_hex(8),
            started=started,
        )
    finally:
        database.close()


def on_http_error(request: Request, error: Exception) -> Response:
    """An error as its client reads it: JSON below /api/, a page elsewhere, no body where none may be."""
    error = cast(HTTPException, error)
    headers = dict(error.headers or {})
    if error.status_code in (204, 304):
        return Response(status_code=error.status_code, headers=headers)
    if request.url.path.startswith(f"{request.scope.get('root_path', '')}/api/"):
        return api_error(error.status_code, error.detail, headers)
    return site.error_page(cast("Request[State]", request), error.status_code, error.detail, headers)


app = Starlette(
    routes=[
        *site.routes,
        *live.routes,
        *clock.routes,
        *api.routes,
        Mount("/static", StaticFiles(directory=FOLDER / "static"), name="static"),
    ],
    lifespan=lifespan,
    middleware=[Middleware(RefuseForeignSites)],
    exception_handlers={HTTPException: on_http_error},
)
