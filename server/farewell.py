"""How an exchange with a client ends: on to its next request, a wait until it has read, lingering, or closed; and the
answers that no application gives: 400 and its kin for broken requests, 408 for slow ones.

Promises: a refused client gets a complete response with ``Connection: close`` and time to read it. The connection
must be owned by the calling thread. One ``Refuser`` belongs to one thread (a worker, or the child's main thread),
as its log and its slot do.
"""

from __future__ import annotations

import socket
import time
from email.utils import formatdate

from .access_log import UNREADABLE, WorkerLog
from .conn_queue import ConnectionQueue
from .connection import Connection
from .http.response import error_response
from .phases import Phase
from .proxy.opening import gave_up
from .slots import Slot, nowhere


class Refuser:
    """See the module."""

    __slots__ = ("_log", "_queue", "_slot")

    def __init__(self, queue: ConnectionQueue, log: WorkerLog | None, slot: Slot | None = None) -> None:
        self._queue = queue
        self._log = log
        self._slot = slot or nowhere()

    def refuse(self, conn: Connection, status: int, message: str, *, silent: bool = False) -> None:
        """Answer ``status`` with one line of plain text, and close once the client could read it.

        silent: HEAD was asked for, which has no such line (RFC 9110 9.3.2).
        """
        silent = silent or (conn.request is not None and conn.request.method == "HEAD")
        self._slot.end_other(status, len(message) + 1)
        if self._log is not None:
            now = time.monotonic()
            # Of a request whose body is refused, the head was right.
            self._log.add(conn.peer, conn.request or UNREADABLE, status, len(message) + 1, now, now)
        try:
            date = formatdate(time.time(), usegmt=True).encode()
            sent = conn.transmit(error_response(status, message, date=date, silent=silent))
        except OSError:
            sent = False
        if sent:
            linger(self._queue, conn)
        else:
            self._queue.close(conn)  # gone, or it does not even take 200 bytes

    def expired(self, conn: Connection) -> None:
        """The deadline of a parked connection has passed, and the caller now owns it."""
        phase = conn.phase
        inbox = conn.inbox
        # An empty line alone is no request (RFC 9112 2.2): a 408 would be taken for the answer to the next one.
        if phase == Phase.BODY or (phase == Phase.HEAD and inbox not in (b"", b"\r", b"\r\n")):
            part = "body" if phase == Phase.BODY else "head"
            silent = inbox.startswith((b"HEAD ", b"\r\nHEAD "))
            self.refuse(conn, 408, f"the request's {part} did not arrive in time", silent=silent)
        else:
            if phase in (Phase.IDLE, Phase.HEAD):
                conn.goodbye()
            elif phase == Phase.PREFACE:
                gave_up(conn)
            self._queue.close(conn)


def dismiss(queue: ConnectionQueue, conn: Connection, keep_alive: bool) -> bool:
    """Send a connection where it belongs after a response.

    True: its next request is already here, the connection is IDLE and still the caller's. False: it is not the caller's
    any more.
    """
    conn.keep_alive = keep_alive
    if conn.out is not None:
        conn.move(Phase.WRITING)
        conn.taken = 0
        queue.park(conn)
    elif keep_alive:
        conn.move(Phase.IDLE)
        if conn.inbox:
            return True
        queue.park(conn)
    elif conn.inbox or conn.request is not None or conn.has_data():
        # Closing now would reset the connection, and the client could lose the response (RFC 9112 9.6).
        linger(queue, conn)
    else:
        conn.goodbye()
        queue.close(conn)
    return False


def linger(queue: ConnectionQueue, conn: Connection) -> None:
    """Half-close, and throw away what still comes until the client closes too or ``LINGER`` seconds have passed."""
    conn.move(Phase.LINGERING)
    conn.inbox = b""
    conn.goodbye()
    try:
        conn.shutdown(socket.SHUT_WR)
    except OSError:
        queue.close(conn)
        return
    queue.park(conn)
