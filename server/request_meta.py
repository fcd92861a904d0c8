"""What a worker needs to know of a request's header fields, taken in one pass.

Promises: nothing is decided here; ``RequestReceived`` has what the parser found out already. Each ``_RequestMeta``
belongs to the thread of the request.
"""

from __future__ import annotations

import logging
import threading

from .http.events import RequestReceived

logger = logging.getLogger("serverd.worker")
_told = threading.Event()


class _RequestMeta:
    """What the worker needs of the header fields, taken in a single pass by ``_classify_request``."""

    __slots__ = ("accept_encoding", "event_stream", "wants_close", "websocket")

    def __init__(self) -> None:
        self.wants_close = False
        self.websocket = False
        self.event_stream = False
        self.accept_encoding = b""


def _classify_request(request: RequestReceived) -> _RequestMeta:
    """Single pass over the fields of ``request`` (names are lower-case already)."""
    meta = _RequestMeta()
    meta.wants_close = not request.keep_alive
    for name, value in request.headers:
        if name == b"accept-encoding":
            meta.accept_encoding = value
        elif name == b"accept":
            meta.event_stream = b"text/event-stream" in value.lower()
        elif name == b"upgrade":
            meta.websocket = request.upgrade and value.lower() == b"websocket"
    return meta


def tell_about_websocket(request: RequestReceived) -> None:
    """Say once why a WebSocket client is answered as plain HTTP, which RFC 9110 7.8 allows a server to do."""
    if not _told.is_set() and _classify_request(request).websocket:
        _told.set()
        logger.warning(
            "a client asked for WebSocket, which takes an ASGI application: it is answered as plain HTTP"
        )
