"""Calls the application for one request at a time, on a worker's thread, and sees to the end of every call.

Promises: exactly one call for each request; an exception, a missing or an unfinished response becomes a 500 (or a cut
connection when the response has begun) and a traceback in the log, never a dead thread. An application that waits
goes on in the same coroutine, in the worker's loop. Refuses: to retry, or to hide that a response was cut.

Belongs to its worker's thread; ``pending`` may be read from others (see ``SyncWorker.in_flight``).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import re
import sys
import threading
from asyncio import (
    Task,  # asyncio has a __getattr__, which makes each look-up of asyncio.Task ten times as slow
)
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .app_loader import ASGIApp, WSGIApp, no_asgi
from .asgi.cycle import Cycle
from .asgi.event_stream import EventStream
from .asgi.run_sync import call_blocking
from .asgi.scope import ScopeBuilder
from .blocking import BlockingExchange
from .connection import Connection
from .exchange import ClientGone, Exchange
from .host import Host
from .http.events import RequestReceived
from .http.response import ResponseError
from .routes import WEBSOCKET, is_event_source
from .slots import SINCE
from .sync_app import RawRequest, SyncApp
from .websocket import WebSocketCycle

if TYPE_CHECKING:
    from .wsgi import WsgiRunner

errors = logging.getLogger("serverd.error")

# What asyncio says of a future or task, and of a lock, event or queue.
_OTHER_LOOP: Final = re.compile(r"(attached|bound) to a different (event )?loop")
_advised = threading.Event()


class AppRunner:
    """See the module. ``ended`` is called, in the loop, when an exchange that had to wait is over."""

    def __init__(
        self,
        worker: Host,
        app: ASGIApp,
        ended: Callable[[], None],
        *,
        sync_app: SyncApp | None = None,
        wsgi_app: WSGIApp | None = None,
        websockets: bool = False,
    ) -> None:
        root_path = worker.config.workers.root_path
        self._worker = worker
        self._slot = worker.slot
        self._app = app if _is_coroutine_function(app) else _within_task(app)
        self._sync_app = sync_app
        self._wsgi: WsgiRunner | None = None
        # Runs the application as far as it goes without waiting; the exchange's task is in ``pending`` if it waits.
        self.start: Callable[[Connection, RequestReceived, bytes], Exchange]
        self.start = self._start_any if websockets else self._start_http
        if wsgi_app is not None:
            from .wsgi import WsgiRunner  # noqa: PLC0415

            self._wsgi = WsgiRunner(worker, wsgi_app)
            self.start = self._start_wsgi
        self._ended = ended
        self.scopes = ScopeBuilder(root_path)
        self.pending: dict[asyncio.Task[Any], Exchange] = {}
        self.current: Exchange | None = None

    def _start_any(self, conn: Connection, request: RequestReceived, body: bytes) -> Exchange:
        """On the home loop, where WebSockets come too."""
        if request.route != WEBSOCKET:
            if is_event_source(request):
                return self._start_event_stream(conn, request, body)
            return self._start_http(conn, request, body)
        websocket = WebSocketCycle(self._worker, conn, request, body)
        try:
            if websocket.shake_hands():
                scope = self.scopes.build_websocket(conn, request, websocket.subprotocols)
                self._step(websocket, self._app(scope, websocket.receive, websocket.send))
        except BaseException as exc:  # noqa: BLE001 - not a coroutine at all, or SystemExit passed on by the task
            self._finish(websocket, exc)
        return websocket

    def _start_event_stream(self, conn: Connection, request: RequestReceived, body: bytes) -> Exchange:
        stream = EventStream(self._worker, conn, request, body)
        try:
            coro = self._app(self.scopes.build(conn, request), stream.receive, stream.send)
            if (task := self._step(stream, coro)) is not None:
                stream.task = task
        except BaseException as exc:  # noqa: BLE001 - not a coroutine at all, or SystemExit passed on by the task
            self._finish(stream, exc)
        return stream

    def _start_http(self, conn: Connection, request: RequestReceived, body: bytes) -> Exchange:
        worker = self._worker
        cycle = Cycle(worker, conn, request, body)
        self.current = cycle
        # Slot.begin and Slot.idle, without their calls.
        slot = self._slot
        slot.times[SINCE] = cycle.since
        if request is not slot.request:
            slot.describe(request)
        try:
            if self._sync_app is not None and self._call_sync(cycle):
                return cycle
            coro = self._app(self.scopes.build(conn, request), cycle.receive, cycle.send)
            # Stepped here and now; no event loop is needed unless it waits. 0.5 us instead of a turn of the loop.
            task: Task[Any] = Task(coro, loop=worker.loop, eager_start=True)  # type: ignore[arg-type]
            if task.done():
                exc = None if task.cancelled() else task.exception()
                if exc is not None or not cycle.complete:  # else there is nothing left to see to
                    self._finish(cycle, exc)
            else:
                self._wait(task, cycle)
        except BaseException as exc:  # noqa: BLE001 - not a coroutine at all, or SystemExit passed on by the task
            self._finish(cycle, exc)
        finally:
            self.current = None
            slot.times[SINCE] = 0.0
        return cycle

    def _step(self, exchange: Exchange, coro: Any) -> asyncio.Task[Any] | None:
        """As the end of ``_start_http``, which has it written out for its speed. The task, if it waits."""
        self._slot.begin(exchange.request, exchange.since)
        try:
            task: Task[Any] = Task(coro, loop=self._worker.loop, eager_start=True)
            if task.done():
                self._finish(exchange, None if task.cancelled() else task.exception())
                return None
            self._wait(task, exchange)
            return task
        finally:
            self._slot.idle()

    def _wait(self, task: asyncio.Task[Any], exchange: Exchange) -> None:
        """The application's coroutine goes on in the loop."""
        exchange.waited = True
        exchange.entry = self._slot.wait(exchange.request, exchange.since, exchange.kind)
        self.pending[task] = exchange
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        cycle = self.pending.pop(task)
        self._slot.wait_no_more(cycle.entry, cycle.kind)
        self._finish(cycle, asyncio.CancelledError() if task.cancelled() else task.exception())
        self._ended()

    def _finish(self, cycle: Exchange, exc: BaseException | None) -> None:
        """The call is over: see that its response is."""
        if (cycle.gone or (cycle.done and not cycle.complete)) and (exc is None or _tells_of_leaving(exc)):
            # The client left, or was cut off, and that was said where it happened: no fault of the application's.
            cycle.abandon()
        elif exc is None:
            if not cycle.done and (complaint := cycle.returned()):
                _report(cycle, complaint)
        else:
            _report(cycle, "raised an exception", exc)
            cycle.fail(500, "Internal Server Error")

    def _start_wsgi(self, conn: Connection, request: RequestReceived, body: bytes) -> Exchange:
        """Let the WSGI application answer, on this thread, as if it had no event loop."""
        wsgi = self._wsgi
        assert wsgi is not None
        exchange = BlockingExchange(self._worker, conn, request, body)
        self.current = exchange
        self._slot.begin(request, exchange.since)
        failure: BaseException | None = None
        try:
            call_blocking(contextvars.copy_context().run, wsgi.run, exchange)
        except BaseException as exc:  # noqa: BLE001 - also SystemExit: it ends the request, never the thread
            failure = exc
        finally:
            self.current = None
            self._slot.idle()
        self._finish(exchange, failure)
        return exchange

    def _call_sync(self, cycle: Exchange) -> bool:
        """Let ``handle_sync`` have the request. False when it leaves it to ASGI, or the body is not all here."""
        assert self._sync_app is not None
        if cycle.conn.request is not None:
            if self._app is not no_asgi:
                return False
            cycle.fail(413, "the body is larger than limits.buffered_body, which handle_sync takes whole")
            return True
        request = cycle.request
        origin = request.origin
        raw = RawRequest(
            request.method.encode("ascii"),
            request.raw_path,
            request.query,
            tuple(request.headers),
            cycle.body or b"",
            cycle.conn.peer if origin is None else origin.client,
            cycle.conn.server if origin is None else origin.server,
            request.version,
        )
        response = contextvars.copy_context().run(self._sync_app.handle_sync, raw)
        if response is None:
            return False
        try:
            cycle.begin(response.status, response.headers, response.body, False)
        except ClientGone:
            pass
        return True


def _is_coroutine_function(app: Any) -> bool:
    """Whether calling ``app`` runs nothing of it yet."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__)


def _within_task(app: ASGIApp) -> ASGIApp:
    """``app``, called in the task of its request. What it does before it returns its coroutine, such as setting a
    context variable, would else be done in the worker's own context, for all later requests."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return call


def _tells_of_leaving(exc: BaseException | None) -> bool:
    """Whether ``exc`` says that the client left, or came of one that does: Starlette turns the OSError of ``send``, and
    ``websocket.disconnect``, into a WebSocketDisconnect of its own, and an application need not catch it. Work for a
    client that has left may be cancelled, by the application or by us."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_tells_of_leaving(part) for part in exc.exceptions)
    if isinstance(exc, asyncio.CancelledError):  # itself: behind a TimeoutError stands one as well
        return True
    for _ in range(20):  # a chain of exceptions may be a ring
        if exc is None or isinstance(exc, ClientGone) or type(exc).__name__ == "WebSocketDisconnect":
            break
        exc = exc.__cause__ or exc.__context__
    return exc is not None


def _report(cycle: Exchange, what: str, exc: BaseException | None = None) -> None:
    """Log an application's error with the request that met it; the path is escaped by the log's formatter."""
    request = cycle.request
    path = request.raw_path.decode("ascii", "backslashreplace")
    errors.error("%s %s: the application %s", request.method, path, what, exc_info=exc)
    if isinstance(exc, ResponseError):
        errors.error("%s %s: its response was refused: %s", request.method, path, exc)
    if isinstance(exc, RuntimeError) and _OTHER_LOOP.search(_words(exc)) and not _advised.is_set():
        _advised.set()
        errors.error(
            "an object of one event loop was used in another: each worker thread has a loop of its own. Set "
            "workers.mode: async for one shared loop, or create such clients per request, or in each thread"
        )


def _words(exc: BaseException) -> str:
    """What the exception says; an application's may fail at that too."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - the log says "<exception str() failed>"
        return ""


def describe(exchange: Exchange, now: float) -> str:
    """One line for a person: which request, since when."""
    request = exchange.request
    return f"{request.method} {request.raw_path.decode('ascii', 'backslashreplace')} ({now - exchange.since:.1f} s)"


def gil_enabled() -> bool:
    """Whether this interpreter runs one thread at a time."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()
