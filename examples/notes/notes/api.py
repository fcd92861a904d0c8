"""The JSON API: /api/notes, /api/notes/{id}, /api/status.

Promises: an error is JSON with an `error` line and never a traceback; 400 for what is not JSON or not a
number in the query, 404 for an unknown id, 405 with Allow, 409 for a note that somebody else changed (when
the client says which `revision` it saw), 413 for a body over `MAX_BODY`, 415 for a body that is not JSON, 422
with a message for each field.

`def` handlers run on a thread that may block; `async def` ones first wait for the body and then give the
database call to such a thread. On serverd's worker threads both are the very thread that took the request.
"""

import json
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .database import RevisionConflict
from .web import State, api_error, check_note, number, path_id, served

MAX_BODY = 512 * 1024  # bytes: a text of MAX_TEXT characters fits, whatever they are
MAX_PAGE = 200  # notes in one answer
MAX_OFFSET = 10**9


def status(request: Request[State]) -> Response:
    """Who answers, and which run of the lifespan its state comes from."""
    return JSONResponse({**served(), "boot": request.state["boot"], "started": request.state["started"]})


class Notes(HTTPEndpoint):
    """The collection."""

    def get(self, request: Request[State]) -> Response:
        """?query= in title or text, ?limit= (50), ?offset= (0)."""
        notes, total = request.state["database"].list_notes(
            request.query_params.get("query", ""),
            number(request, "limit", 50, MAX_PAGE),
            number(request, "offset", 0, MAX_OFFSET),
        )
        return JSONResponse({"notes": [asdict(note) for note in notes], "total": total})

    async def post(self, request: Request[State]) -> Response:
        """{"title", "text"} -> 201 and Location."""
        body = await _json_object(request)
        title, text, problems = check_note(body.get("title"), body.get("text", ""))
        if problems:
            return api_error(422, "the note is not valid", fields=problems)
        note = await run_in_threadpool(request.state["database"].create_note, title, text)
        request.state["changes"].tell()  # from this worker thread to every open page (room.py)
        location = f"{request.scope.get('root_path', '')}/api/notes/{note.id}"
        return JSONResponse(asdict(note), status_code=201, headers={"location": location})


class OneNote(HTTPEndpoint):
    """One note."""

    def get(self, request: Request[State]) -> Response:
        """The note, or 404."""
        note = request.state["database"].get_note(path_id(request))
        return _missing(request) if note is None else JSONResponse(asdict(note))

    async def put(self, request: Request[State]) -> Response:
        """{"title", "text"} replaces the note; with "revision", only if it is still that one (else 409)."""
        note_id = path_id(request)
        body = await _json_object(request)
        title, text, problems = check_note(body.get("title"), body.get("text", ""))
        revision = body.get("revision")
        if revision is not None and type(revision) is not int:
            problems["revision"] = "must be a whole number"
        if problems:
            return api_error(422, "the note is not valid", fields=problems)
        try:
            note = await run_in_threadpool(
                request.state["database"].update_note, note_id, title, text, revision
            )
        except RevisionConflict as conflict:
            return api_error(409, str(conflict), note=asdict(conflict.current))
        return _missing(request) if note is None else JSONResponse(asdict(note))

    def delete(self, request: Request[State]) -> Response:
        """204, or 404."""
        if not request.state["database"].delete_note(path_id(request)):
            return _missing(request)
        return Response(status_code=204)


def _missing(request: Request[State]) -> Response:
    return api_error(404, f"there is no note {path_id(request)}")


async def _json_object(request: Request[State]) -> dict[str, Any]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, "send the note as application/json")
    try:
        body = json.loads(await _limited_body(request))
    except ValueError, RecursionError:
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "the body must be a JSON object")
    return body


async def _limited_body(request: Request[State]) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:  # the rest is left unread: the server closes the connection after the answer
            raise HTTPException(413, f"the body may have {MAX_BODY} bytes at most")
    return bytes(body)


routes = [
    Route("/api/status", status),
    Route("/api/notes", Notes),
    Route("/api/notes/{id}", OneNote),
]
