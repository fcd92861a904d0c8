"""Requests that a new child answers before it is ready: `reload.warmup`.

Promises: each path is requested once, in order, over a connection inside the process that goes the way of all others
(head, application, response), so that what the application does on its first request is done before a client has
to wait for it; an answer of 400 or more, or none in time, is a failure to boot. Refuses to follow redirects.

Called by the child's main thread, when its workers run and nobody else can connect yet.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Final

from .conn_queue import ConnectionQueue

# The status line is all that is looked at; the rest is read and thrown away.
_STATUS_LINE: Final = 64
_FIELDS: Final = "Host: localhost\r\nUser-Agent: serverd-warmup\r\nConnection: close\r\n"
_READ: Final = 65536


class WarmupFailed(Exception):
    """An answer that no client should get; the message names the path and the status."""


def warm_up(queue: ConnectionQueue, paths: tuple[str, ...], seconds: float) -> None:
    """Request ``paths``; all of it may take ``seconds`` (infinite: for ever). Raises WarmupFailed."""
    deadline = time.monotonic() + seconds
    for path in paths:
        status = _request(queue, path, deadline)
        if status >= 400:
            raise WarmupFailed(f"reload.warmup: GET {path} answered {status}")


def _request(queue: ConnectionQueue, path: str, deadline: float) -> int:
    ours, theirs = socket.socketpair()
    with ours:
        queue.adopt_plain(theirs)
        ours.setblocking(False)
        ours.send(f"GET {path} HTTP/1.1\r\n{_FIELDS}\r\n".encode())
        head = b""
        while data := _read(ours, path, deadline):
            if len(head) < _STATUS_LINE:
                head += data
    try:
        return int(head.split(b" ", 2)[1])
    except IndexError, ValueError:
        raise WarmupFailed(f"reload.warmup: GET {path} was not answered: the connection was closed") from None


def _read(sock: socket.socket, path: str, deadline: float) -> bytes:
    """More of the answer; b"" at its end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    left = deadline - time.monotonic()
    if not poll.poll(None if left == float("inf") else max(0.0, left) * 1000):
        raise WarmupFailed(f"reload.warmup: GET {path} was not answered within timeouts.boot")
    try:
        return sock.recv(_READ)
    except ConnectionResetError:
        return b""
