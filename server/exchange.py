"""One request and its response on one connection: framing, sending, and what becomes of the connection afterwards.

Promises: a response is framed in one place whoever makes it (``http.response.ResponseFramer``); when it is complete the
connection goes to where it belongs at once (parked for the next request, parked until the client has read,
lingering, or closed), even if the application still runs. Refuses: to know what an application is; ``asgi.cycle``
and the sync application's path build on this.

Belongs to the thread of its worker, which owns the connection until ``done``; after that the exchange never touches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Final

from .answers import first_pieces
from .connection import Connection
from .farewell import dismiss
from .file_range import SMALL, FileRange, FileShrank
from .host import Host
from .http.events import RequestReceived
from .http.fields import as_bytes
from .http.response import Around, ResponseFramer, encode_head
from .large_body import LARGE, body_pieces
from .lifecycle import ClientDisconnected, RequestStarted, ResponseCompleted
from .phases import Phase
from .slots import REQUEST

Headers = Iterable[tuple[bytes, bytes]]


# To send so much takes no time that a log would show: the clock is not read once more.
_QUICK: Final = 16 * 1024
# What the access log says of a request whose client left before the response began; nginx's number for it.
NO_ANSWER: Final = 499


class ClientGone(OSError):
    """The client closed the connection, or was cut off for not reading (ASGI HTTP spec 2.4: ``send`` raises
    OSError)."""


class Exchange:
    """See the module."""

    __slots__ = (
        "body",
        "body_bytes",
        "complete",
        "conn",
        "done",
        "entry",
        "framer",
        "gone",
        "owns",
        "request",
        "since",
        "status",
        "waited",
        "watching",
        "worker",
    )

    kind = REQUEST  # for the scoreboard
    entry: int  # there, once its coroutine has to wait

    def __init__(self, worker: Host, conn: Connection, request: RequestReceived, body: bytes) -> None:
        self.worker = worker
        self.conn = conn
        self.request = request
        self.body: bytes | None = body
        self.framer: ResponseFramer | None = None  # of a response that comes in pieces
        self.status = 0  # of the response, once its head is sent
        self.body_bytes = 0
        self.done = False  # the connection is not ours any more
        self.gone = False  # the client left, or was cut off
        self.complete = False  # because the response is, and not because it was cut
        self.owns = (
            False  # done in the first step, and the connection is ours, as its next request is already here
        )
        self.waited = False  # the application's coroutine had to wait
        self.watching = False  # something of this loop hangs on the connection: released() takes it back
        self.since = monotonic()
        if worker.record is not None:
            worker.record(
                RequestStarted(
                    conn.id, worker.worker_id, self.since, request.method, request.target, request.version
                )
            )

    # -- the response ----------------------------------------------------------------------------------------------

    def interim(self, status: int, headers: Headers) -> None:
        """Send an interim response (RFC 9110 15.2), which a client of HTTP/1.0 would not understand.

        Raises ResponseError, ClientGone.
        """
        data = encode_head(status, headers)
        try:
            self.conn.transmit(data)
        except OSError as exc:
            self.cut()
            raise ClientGone(*exc.args) from exc

    def begin(self, status: int, headers: Headers, body: bytes, more: bool, trailers: bool = False) -> None:
        """Send the head and the first piece of the body in one write. ``more``: further pieces follow, or ``trailers``.

        Raises ResponseError for what may not go onto the wire, ClientGone.
        """
        worker = self.worker
        request = self.request
        conn = self.conn
        if type(body) is not bytes:
            body = as_bytes(body, "the response body")
        # A body that is not all here would have to be read before the next request: rather no next request.
        keep_alive = (
            request.keep_alive and conn.request is None and (not worker.draining or worker.queue.leaves(conn))
        )
        now = monotonic()
        heads = worker.heads
        date = heads.date if now < heads.until else heads.tick()
        size = len(body)
        answer = None if more else request.answer
        pieces = None
        if (
            answer is not None
            and answer[0] is date
            and answer[1] == (status, size, keep_alive)
            and answer[2] == headers
        ):  # as the last time, and nearly always where a request comes again and again
            data, keep_alive = answer[3] + body, answer[4]
        else:
            pieces, keep_alive, framer = first_pieces(
                request, heads, keep_alive, status, headers, body, more, trailers
            )
            data = pieces[0]
            if framer is not None:
                self._more_follows(framer)
        self.status = status
        self.body_bytes = size
        try:
            if pieces is None or len(pieces) == 1:
                conn.transmit(data)
            else:
                conn.transmit_all(pieces)
        except OSError as exc:
            self.cut()
            raise ClientGone(*exc.args) from exc
        if not more:
            self._completed(keep_alive, now if size < _QUICK else 0.0)

    def go_on(self, body: bytes, more: bool) -> None:
        """Send one more piece of the body. Raises ResponseError, ClientGone."""
        framer = self.framer or _begun(None)
        if type(body) is not bytes:
            body = as_bytes(body, "the response body")
        size = len(body)
        if more and framer.endless and 0 < size <= LARGE:
            # As the framer would make it, without its eight calls: an event stream is nothing but this.
            pieces = [b"%x\r\n%b\r\n" % (size, body)]
        else:
            pieces = body_pieces(framer, body, more)
        self.body_bytes += size
        try:
            if len(pieces) > 1:
                self.conn.transmit_all(pieces)
            elif pieces:
                self.conn.transmit(pieces[0])
        except OSError as exc:
            self.cut()
            raise ClientGone(*exc.args) from exc
        if not more:
            self._completed(framer.keep_alive)

    def begin_file(
        self, status: int, headers: Headers, file: FileRange, more: bool = False, trailers: bool = False
    ) -> None:
        """As ``begin``, with a file as the first piece of body, or all of it. The file is closed here in any case.

        Never blocks: what the client does not take now is sent as it reads, without this exchange.
        Raises ResponseError, ClientGone, and FileShrank when the file is shorter than it was.
        """
        if file.count <= SMALL:
            self.begin(status, headers, file.take(), more, trailers)
            return
        worker, request = self.worker, self.request
        conn = self.conn
        keep_alive = (
            request.keep_alive and conn.request is None and (not worker.draining or worker.queue.leaves(conn))
        )
        framer = ResponseFramer(request.method, request.version, keep_alive)
        try:
            around = framer.start_around(status, headers, worker.heads.tick(), file.count, more, trailers)
        except BaseException:
            file.close()
            raise
        self._more_follows(framer)
        self.status = status
        self._send_around(around, file, more)

    def go_on_file(self, file: FileRange, more: bool) -> None:
        """As ``go_on``, with a file as the piece of body; see ``begin_file``."""
        if file.count <= SMALL:
            self.go_on(file.take(), more)
            return
        try:
            around = _begun(self.framer).around(file.count, more)
        except BaseException:
            file.close()
            raise
        self._send_around(around, file, more)

    def _send_around(self, around: Around, file: FileRange, more: bool) -> None:
        """Send ``file`` with what goes around it; close it."""
        before, wanted, after = around
        conn = self.conn
        try:
            if before:
                conn.transmit(before)
            if wanted:
                self.body_bytes += file.count
                conn.transmit_file(file, after)
            else:
                file.close()
        except OSError as exc:
            file.close()
            self.cut()
            if isinstance(exc, FileShrank):
                raise
            raise ClientGone(*exc.args) from exc
        if not more:
            self._completed(_begun(self.framer).keep_alive)

    def end(self, trailers: Headers) -> None:
        """Complete a response of which ``more`` was to come, with its trailers. Raises ResponseError, ClientGone."""
        framer = _begun(self.framer)
        data = framer.trailers(trailers)
        try:
            if data:
                self.conn.transmit(data)
        except OSError as exc:
            self.cut()
            raise ClientGone(*exc.args) from exc
        self._completed(framer.keep_alive)

    def fail(self, status: int, message: str) -> None:
        """Answer with an error if nothing was sent yet, else cut the connection so that nothing looks complete."""
        if self.done:
            return
        if self.status:
            self.cut()
            return
        text = f"{message}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        try:
            self.begin(status, headers, text, False)
        except ClientGone:
            pass

    def returned(self) -> str:
        """The application returned and the exchange is not done: end it; what was wrong with that, if anything."""
        begun = self.status != 0
        self.fail(500, "Internal Server Error")
        return "returned before its response was complete" if begun else "returned without a response"

    def abandon(self) -> None:
        """The client left, or was sent away, and the application has ended: nothing is owed to anybody."""
        self.cut()

    def drain(self) -> None:
        """This child is to end: what can be ended without harm to the client ends now. In the loop."""

    def cut(self) -> None:
        """Close the connection in the middle of the exchange; the client sees a truncated response."""
        if self.done:
            return
        self.done = True
        if self.watching:
            self.released()
        self.write_off()
        self.worker.queue.close(self.conn)

    def write_off(self) -> None:
        """Count and log that it had no complete response.

        For ``cut``; and for the child's main thread when it ends under a request that holds its thread: if that comes
        to its end in the same moment, it is counted twice.
        """
        worker, conn = self.worker, self.conn
        now = monotonic()
        if self.kind == REQUEST:
            worker.slot.end(0, self.body_bytes, now - self.since)
        else:
            worker.slot.end_other(self.status, self.body_bytes)
        if worker.log is not None:
            status = self.status or NO_ANSWER
            worker.log.add(conn.peer, self.request, status, self.body_bytes, self.since, now)
        if worker.record is not None:
            worker.record(ClientDisconnected(conn.id, worker.worker_id, now, now - self.since))

    def _more_follows(self, framer: ResponseFramer) -> None:
        """The response comes in pieces; until it is complete, the end of the connection must not look like its end."""
        self.framer = framer
        if framer.until_close:
            self.conn.reset_at_close(True)

    def _completed(self, keep_alive: bool, now: float = 0.0) -> None:
        """The last byte is out or buffered: log it, and let go of the connection. ``now``: the time, if it is known."""
        self.done = self.complete = True
        if self.watching:
            self.released()
        worker, conn = self.worker, self.conn
        if conn.resets and conn.out is None:
            conn.reset_at_close(False)
        now = now or monotonic()
        if self.kind:
            worker.slot.end_other(self.status, self.body_bytes)
        else:
            worker.slot.end(self.status, self.body_bytes, now - self.since)
        if worker.log is not None:
            worker.log.add(conn.peer, self.request, self.status, self.body_bytes, self.since, now)
        if worker.record is not None:
            worker.record(
                ResponseCompleted(
                    conn.id, worker.worker_id, now, self.status, self.body_bytes, now - self.since
                )
            )
        if keep_alive and conn.out is None and not conn.inbox:  # nearly always
            if conn.phase != Phase.RUNNING:
                conn.move(Phase.IDLE)
            conn.phase = Phase.IDLE
            worker.queue.park_idle(conn, now)
        elif dismiss(worker.queue, conn, keep_alive):
            # Its next request is already here. In the first step whoever serves the connection parks it for that; later
            # nobody does any more, and the application may go on for long.
            if self.waited:
                # Not in the context of this request, which would be the next one's too.
                worker.loop.call_soon(worker.go_on, conn, context=worker.context)
            else:
                self.owns = True

    def released(self) -> None:
        """Called once, if ``watching``, before the connection is let go of: take back what was hung onto it."""


def _begun(framer: ResponseFramer | None) -> ResponseFramer:
    if framer is None:
        raise RuntimeError("the response has not begun")
    return framer
