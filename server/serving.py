"""A ready connection, carried through its request-response cycles: what worker threads and the home loop do alike.

Promises: every connection that it is given is, afterwards, with an exchange that goes on, parked, lingering or closed;
what a client or an application does never raises out of ``_handle_connection``. Refuses: to wait for anything.

Threads: a ``Serving`` belongs to one thread; ``start_draining`` and ``requests`` are for others too (one attribute
each, written by one thread).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import ServerConfig
from .access_log import WorkerLog
from .app_runner import AppRunner
from .conn_queue import ConnectionQueue
from .connection import PROGRESS, REQUESTS, SINCE, Address, Connection
from .exchange import ClientGone, Exchange
from .farewell import Refuser, dismiss
from .host import Watcher
from .http.events import ProtocolError, RequestReceived
from .lifecycle import LifecycleEvent
from .memo import ResponseMemo
from .phases import Phase
from .proxy.opening import read_header
from .proxy.trust import Trust
from .reader import RequestReader
from .routes import Router
from .shedding import Gate, retry_after
from .slots import Slot, nowhere
from .stacks import Held
from .sync_app import SyncApp

if TYPE_CHECKING:
    from .app_loader import ASGIApp, WSGIApp

logger = logging.getLogger("serverd.worker")


class Serving:
    """See the module. ``loop``, ``context`` and ``watcher`` are set by the subclass before anything is served.

    ``context`` is the thread's own, of no request: whatever goes on to serve in a callback that a request has
    brought about goes on in it, or its context variables would be those of all later requests.
    """

    loop: asyncio.AbstractEventLoop
    context: contextvars.Context
    watcher: Watcher

    def __init__(
        self,
        config: ServerConfig,
        queue: ConnectionQueue,
        app: ASGIApp,
        *,
        worker_id: int,
        route: Router,
        record: Callable[[LifecycleEvent], None] | None,
        access_log: WorkerLog | None,
        sync_app: SyncApp | None = None,
        wsgi_app: WSGIApp | None = None,
        slot: Slot | None = None,
        websockets: bool = False,
    ) -> None:
        self.config = config
        self.timeouts = config.timeouts
        self.worker_id = worker_id
        self.queue = queue
        self.draining = False
        self.ending = False
        self.alert = False  # `gate` wants to hear of requests
        self.gate: Gate | None = None
        self.requests = 0
        self.record = record
        self.log = access_log
        self.heads = ResponseMemo()
        self.slot = slot or nowhere()
        self._refuser = Refuser(queue, access_log, self.slot)
        self._trust = Trust(config.proxy.trusted)
        self._reader = RequestReader(config.limits, proxy=config.proxy, route=route)
        self._read = self._reader.read
        self._runner = AppRunner(
            self, app, self._ended, sync_app=sync_app, wsgi_app=wsgi_app, websockets=websockets
        )

    # -- for the child's main thread ---------------------------------------------------------------------------------

    def set_lifespan_state(self, state: dict[str, Any]) -> None:
        """The lifespan's state; every request gets its own shallow copy. Before anything is served."""
        self._runner.scopes.state = state

    def held(self) -> Held:
        """What this thread serves at the moment, for ``stacks``. Any thread; it may change while the caller looks."""
        return Held(self._runner.current, self._runner.pending, self.loop, self.slot)

    def start_draining(self) -> None:
        """Say ``Connection: close`` from now on. Any thread: one attribute is set once."""
        self.draining = True

    # -- one connection ----------------------------------------------------------------------------------------------

    def _handle_connection(self, conn: Connection, addr: Address | None, runner: object) -> None:
        """Carry a ready connection through its request-response cycles as far as they go now."""
        try:
            self._handle_connection_impl(conn, addr, runner)
        except EOFError, OSError:
            self.queue.close(conn)
        except Exception:
            logger.exception("connection %d: internal error; it is closed", conn.id)
            self.queue.close(conn)
        if self.queue.retiring:
            self.queue.notice()

    def _handle_connection_impl(self, conn: Connection, addr: Address | None, runner: object) -> bool:
        """True if an exchange on ``conn`` goes on in this thread's loop, or was handed over to the async pool."""
        if conn.phase >= Phase.WRITING and not self._resume(conn):
            return False
        try:
            complete = self._read(conn)
        except ProtocolError as exc:
            self._send_error(conn, exc)
            return False
        if complete is None:
            conn.rearm = True  # part of a record of TLS leaves it IDLE, and there may be more than was read
            self.queue.park(conn, keep_deadline=conn.numbers[SINCE] > 0)
            return False
        request, body = complete
        if conn.phase > Phase.BODY:
            conn.move(Phase.RUNNING)  # raises; the three phases before may become RUNNING
        conn.phase = Phase.RUNNING
        if self.record is not None:
            conn.numbers[REQUESTS] += 1
        self.requests += 1
        # After the count, see `LoadKeeper._fall_asleep`.
        exchange = self._refused(conn, request, body) if self.alert else None
        conn.known = True
        if exchange is None:
            if request.route and self._hand_over(conn, request, body):
                return True
            exchange = self._runner.start(conn, request, body)
        if not exchange.owns:
            return not exchange.done
        # Its next request is here already. It waits its turn behind all that is ready: one packet holds 1,000 requests,
        # and a client that sends many at once is not to have a thread for itself until they are answered.
        exchange.owns = False
        self.queue.park(conn, at_once=True)
        return False

    def _resume(self, conn: Connection) -> bool:
        """Go on in a phase in which there is no request. True when one may be read now."""
        if conn.phase == Phase.WRITING:
            return self._write_on(conn)
        if conn.phase == Phase.LINGERING:
            self._linger_on(conn)
            return False
        if conn.phase == Phase.PREFACE and not self._read_preface(conn):
            return False
        return self._shake_hands(conn) if conn.phase == Phase.HANDSHAKE else True

    def _hand_over(self, conn: Connection, request: RequestReceived, body: bytes) -> bool:
        """Whether somebody else serves this request from now on."""
        return False

    def _recv_request_fast(self, conn: Connection) -> tuple[RequestReceived | None, bytes]:
        """The next complete request and its body, or (None, b"") when the connection has to wait for more.

        Raises ProtocolError, EOFError (the client closed its side), OSError.
        """
        return self._reader.read(conn) or (None, b"")

    def decode(self, conn: Connection, data: bytes) -> bytes:
        """For a body that the application reads as it comes. Raises ProtocolError."""
        return self._reader.decode(conn, data)

    def go_on(self, conn: Connection) -> None:
        """Serve the next request of a connection that this worker owns. In the loop."""
        self._handle_connection(conn, conn.peer, None)

    def relieve(self) -> bool:
        """The thread is about to wait for a client: see that another serves in its place. False if none can."""
        return False

    def _ended(self) -> None:
        """A call of the application that had to wait in the loop is over."""
        if self.queue.retiring:
            self.queue.notice()

    def _read_preface(self, conn: Connection) -> bool:
        """One step of the PROXY protocol. True when its header is complete. Raises EOFError, OSError."""
        peer = conn.peer
        if not read_header(conn, self._trust):
            self.queue.park(conn, keep_deadline=True)
            return False
        if conn.peer is not peer and not self.queue.named(conn):
            raise EOFError
        return True

    def _shake_hands(self, conn: Connection) -> bool:
        """One step of the TLS handshake. True when a request may be read."""
        try:
            if conn.shake_hands():
                return True
        except ProtocolError as exc:
            self._send_error(conn, exc)
            return False
        self.queue.park(conn, keep_deadline=True, at_once=conn.out is not None)
        return False

    def _write_on(self, conn: Connection) -> bool:
        """Send more of a finished response. True when it is all sent and the next request is already here."""
        if conn.flush():
            if conn.resets:
                conn.reset_at_close(False)
            return dismiss(self.queue, conn, conn.keep_alive)
        enough = conn.taken >= PROGRESS
        if enough:
            conn.taken = 0
        self.queue.park(conn, keep_deadline=not enough)
        return False

    def _linger_on(self, conn: Connection) -> None:
        """Throw away what a client still sends after the last response."""
        if conn.take() == b"":
            self.queue.close(conn)
        else:
            self.queue.park(conn, keep_deadline=True)

    # -- answers without the application -----------------------------------------------------------------------------

    def _refused(self, conn: Connection, request: RequestReceived, body: bytes) -> Exchange | None:
        """The exchange in which the client was told to come again later; None when the request is to be served.

        The connection stays open: a new one costs more than this answer, and has to wait longer.
        """
        assert self.gate is not None  # or nobody sets `alert`
        wait, refused = self.gate.asks(conn)
        if wait is not None:
            self.slot.waited(wait)
        if not refused:
            return None
        exchange = Exchange(self, conn, request, body)
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"retry-after", b"%d" % retry_after(wait or 0.0)),
        ]
        try:
            exchange.begin(503, headers, b"the server is overloaded: please try again later\n", False)
        except ClientGone:
            pass
        return exchange

    def _send_error(self, conn: Connection, fault: ProtocolError) -> None:
        """Answer with one line of plain text, and close once the client could read it."""
        self._refuser.refuse(conn, fault.status, fault.message, silent=fault.silent)

    def _cached_date_header(self) -> bytes | None:
        """The value of Date (RFC 9110 6.6.1), made at most once a second."""
        return self.heads.tick()
