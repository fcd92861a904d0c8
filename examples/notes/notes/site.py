"""The pages a person clicks: notes, files, the clock, and errors.

A form is answered with 303 to the page that shows the result, so that reloading it sends nothing twice. An
upload is read to a temporary file by Starlette and stored in parts, a download is sent in parts: memory stays
small either way. `def` handlers run where blocking is allowed; `async def` ones wait for a form first (see
api.py).
"""

import re
from collections.abc import Iterator
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from . import pages
from .database import Database, StoredFile
from .markup import Markup
from .web import State, check_note, path_id, served

MAX_UPLOAD = 32 * 1024 * 1024  # bytes of one file
MAX_FORM = 1024 * 1024  # bytes of a form without a file
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
POLICY += "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}", re.ASCII)


def page(request: Request[State], title: str, here: str, body: Markup, status: int = 200) -> HTMLResponse:
    """`body` as a whole document, with the headers that keep a browser from running foreign content."""
    text = pages.document(request.scope.get("root_path", ""), title, here, body, served())
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return HTMLResponse(text, status_code=status, headers=headers)


def error_page(
    request: Request[State], status: int, message: str, headers: dict[str, str] | None
) -> HTMLResponse:
    """An error as a page."""
    answer = page(request, str(status), "", pages.problem(status, message), status)
    answer.headers.update(headers or {})
    return answer


def home(request: Request[State]) -> Response:
    """The newest notes, or those that hold ?query=."""
    query = request.query_params.get("query", "").strip()
    database = request.state["database"]
    last = (
        database.last_id()
    )  # first: what is written between the two queries is shown twice rather than never
    found, total = database.list_notes(query)
    return page(request, "Notes", "Notes", pages.notes(found, total, query, last))


async def add_note(request: Request[State]) -> Response:
    """The form of a new note."""
    async with request.form(max_files=0) as form:
        title, text = form.get("title"), form.get("text", "")
    stored, stored_text, problems = check_note(title, text)
    if problems:
        body = pages.note_form("notes", "New note", "Add note", _text(title), _text(text), problems)
        return page(request, "New note", "Notes", body, 422)
    note = await run_in_threadpool(request.state["database"].create_note, stored, stored_text)
    request.state["changes"].tell()  # from this worker thread to every open page (room.py)
    return _see(request, f"notes/{note.id}")


def show_note(request: Request[State]) -> Response:
    """One note with its form."""
    note = request.state["database"].get_note(path_id(request))
    if note is None:
        raise HTTPException(404, "There is no such note.")
    return page(request, note.title, "Notes", pages.note(note))


async def change_note(request: Request[State]) -> Response:
    """The form of a note that was edited."""
    note_id = path_id(request)
    async with request.form(max_files=0) as form:
        title, text = form.get("title"), form.get("text", "")
    stored, stored_text, problems = check_note(title, text)
    if problems:
        body = pages.note_form(f"notes/{note_id}", "Edit", "Save", _text(title), _text(text), problems)
        return page(request, "Edit", "Notes", body, 422)
    if await run_in_threadpool(request.state["database"].update_note, note_id, stored, stored_text) is None:
        raise HTTPException(404, "There is no such note.")
    return _see(request, f"notes/{note_id}")


def delete_note(request: Request[State]) -> Response:
    """The button below a note. Deleting what is gone already is no error: the wish is fulfilled."""
    request.state["database"].delete_note(path_id(request))
    return _see(request, "")


def list_files(request: Request[State]) -> Response:
    """The files and the upload form."""
    return page(request, "Files", "Files", pages.files(request.state["database"].list_files(), MAX_UPLOAD))


async def upload(request: Request[State]) -> Response:
    """A file as multipart/form-data, in the field `file`."""
    async with request.form(max_files=1, max_fields=5) as form:
        file = _uploaded(form)
        name = _file_name(file.filename or "")
        content_type = (file.content_type or "").lower()
        if not TYPE.fullmatch(content_type):
            content_type = "application/octet-stream"
        await run_in_threadpool(request.state["database"].add_file, name, content_type, file.file)
    return _see(request, "files")


def _uploaded(form: FormData) -> UploadFile:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise HTTPException(400, "Send a file in the field 'file' of a multipart form.")
    if file.size is None or file.size > MAX_UPLOAD:
        raise HTTPException(413, f"A file may have {pages.size(MAX_UPLOAD)} at most.")
    return file


def _file_name(sent: str) -> str:
    """The last part of what the client sent, without control characters; shown, and never used as a path."""
    name = re.split(r"[/\\]", sent)[-1].encode(errors="replace").decode()
    return "".join(char for char in name if char.isprintable())[:200].strip() or "file"


def download(request: Request[State]) -> Response:
    """The file as it came, as an attachment: foreign content must not show as a page of this site."""
    file_id = path_id(request)
    database = request.state["database"]
    file = database.get_file(file_id)
    if file is None:
        raise HTTPException(404, "There is no such file.")
    headers = {
        "content-type": file.type,  # as it came; given as media_type, Starlette would add a charset to it
        "content-length": str(file.size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",  # RFC 8187
        "x-content-type-options": "nosniff",
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(_content(database, file), headers=headers)


def _content(database: Database, file: StoredFile) -> Iterator[bytes]:
    sent = 0
    for part in database.file_parts(file.id):
        sent += len(part)
        yield part
    if sent != file.size:  # deleted meanwhile: end the connection rather than pass off a part as the whole
        raise RuntimeError(f"file {file.id} was deleted while it was sent")


def delete_file(request: Request[State]) -> Response:
    """The button beside a file."""
    request.state["database"].delete_file(path_id(request))
    return _see(request, "files")


def clock_page(request: Request[State]) -> Response:
    """The page of the clock."""
    return page(request, "Clock", "Clock", pages.clock())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _see(request: Request[State], path: str) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/{path}", status_code=303)


routes = [
    Route("/", home),
    Route("/notes", add_note, methods=["POST"], max_body_size=MAX_FORM),
    Route("/notes/{id}", show_note, methods=["GET"]),
    Route("/notes/{id}", change_note, methods=["POST"], max_body_size=MAX_FORM),
    Route("/notes/{id}/delete", delete_note, methods=["POST"]),
    Route("/files", list_files, methods=["GET"]),
    Route("/files", upload, methods=["POST"], max_body_size=MAX_UPLOAD + MAX_FORM),
    Route("/files/{id}", download, methods=["GET"]),
    Route("/files/{id}/delete", delete_file, methods=["POST"]),
    Route("/clock", clock_page),
]
