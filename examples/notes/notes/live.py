"""What happens while a page is open: new notes as server-sent events, and a chat over a WebSocket.

Who runs where, on serverd with `mode: sync`: pages and API calls on worker threads, many at once; event streams
and WebSockets on one event loop for the whole process, the one that the lifespan ran on. A `Room` is how the
threads reach that loop.

Both end as soon as the client leaves or the server hands over to new code; the page connects again by itself. An
event stream then sends its last id, so that notes which were written meanwhile are not missed.

With several processes (`workers.processes`, and for the moment of a reload) each has rooms of its own. New notes come
from the database, so the streams of another process show them too, with their next heartbeat; the chat is heard in
the process where it was said. For more, put what connects processes behind `Room.tell`: Redis, or LISTEN and NOTIFY
of PostgreSQL.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from . import pages
from .database import MAX_ID
from .web import ID, State, number, storable

HEARTBEAT = 15.0  # seconds: shorter than the 60 s after which proxies give up a silent connection
RETRY = 200  # milliseconds until the browser opens the next stream
MAX_NAME = 30  # characters
MAX_LINE = 500  # characters
CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


async def events(request: Request[State]) -> Response:
    """The stream of new notes: those after ?after= (or after the last that this browser saw), then each as it comes."""
    last = request.headers.get("last-event-id", "")
    after = int(last) if ID.fullmatch(last) and int(last) <= MAX_ID else number(request, "after", 0, MAX_ID)
    return StreamingResponse(
        _new_notes(request, after),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},  # nginx must not collect it either
    )


async def _new_notes(request: Request[State], last: int) -> AsyncIterator[str]:
    """Woken by the room, told by the database: whatever the order of threads, no note is missed or sent twice."""
    database = request.state["database"]
    yield f"retry: {RETRY}\n\n"
    with request.state["changes"].listening() as woken:
        leaving = asyncio.create_task(_wake_at_the_end(request, woken))
        try:
            while not leaving.done():
                found, total = await run_in_threadpool(database.notes_after, last)
                for note in found:
                    last = note.id
                    shown = {"id": note.id, "card": pages.card(note), "count": pages.count(total)}
                    yield f"id: {note.id}\nevent: note\ndata: {json.dumps(shown)}\n\n"
                if not found:
                    try:
                        await asyncio.wait_for(woken.get(), HEARTBEAT)
                    except TimeoutError:
                        yield ": still here\n\n"
        finally:
            leaving.cancel()


async def _wake_at_the_end(request: Request[State], woken: asyncio.Queue[str]) -> None:
    """Wait until the client leaves, or the server ends this stream: it would otherwise sleep on for a heartbeat."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not woken.full():
        woken.put_nowait("")


async def chat(socket: WebSocket[State]) -> None:
    """Everyone hears what anyone says: {"name", "text"} comes in, {"name", "text", "at"} goes to all."""
    room = socket.state["chat"]
    with room.listening() as said:  # before it is accepted: who sees "connected" misses nothing
        await socket.accept()
        async with asyncio.TaskGroup() as tasks:
            passing_on = tasks.create_task(_pass_on(said, socket))
            while (message := await socket.receive())["type"] == "websocket.receive":
                if line := _line(message.get("text")):
                    room.tell(line)
            passing_on.cancel()


async def _pass_on(said: asyncio.Queue[str], socket: WebSocket[State]) -> None:
    try:
        while True:
            await socket.send_text(await said.get())
    except WebSocketDisconnect:
        pass  # the client has left, which `receive` says as well


def _line(text: str | None) -> str:
    """What is passed on of what a client sent; empty for what is no line of a chat."""
    try:
        sent = json.loads(text or "")
        name, line = (CONTROL.sub(" ", sent[key]).strip() for key in ("name", "text"))
    except ValueError, TypeError, KeyError, RecursionError:
        return ""
    if not line or not storable(name + line):
        return ""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"name": name[:MAX_NAME] or "somebody", "text": line[:MAX_LINE], "at": at})


routes = [Route("/events", events), WebSocketRoute("/ws/chat", chat)]
