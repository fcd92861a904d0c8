"""Where a request is served, from its head alone: on a worker's thread, or on the home loop because it will be long.

Promises: a WebSocket handshake, a request for an event stream and a path of ``workers.async_paths`` are found
before the application is called. Refuses: to look at bodies or at what the application does. Pure functions; any
thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

from .http.events import RequestReceived
from .request_meta import tell_about_websocket

THREAD: Final = 0
PATH: Final = 1  # one of workers.async_paths
EVENTS: Final = 2  # Accept: text/event-stream (HTML, "Server-sent events")
WEBSOCKET: Final = 3  # a handshake of RFC 6455, right or wrong

Router = Callable[[RequestReceived], int]


def all_on_threads(request: RequestReceived) -> int:
    """Every request is served where it is read: a WSGI application knows nothing else."""
    if request.upgrade:
        tell_about_websocket(request)
    return THREAD


def router(async_paths: tuple[str, ...]) -> Router:
    """A function that gives the route of a request. async_paths: decoded path prefixes.

    A prefix takes its own path and what is below it: ``/live`` takes ``/live`` and ``/live/1``, not ``/lives``.
    """
    exact = frozenset(path.rstrip("/").encode() for path in async_paths)
    below = tuple(path.rstrip("/").encode() + b"/" for path in async_paths)

    def route(request: RequestReceived) -> int:
        kind = THREAD
        for name, value in request.headers:
            if name == b"accept":
                if b"text/event-stream" in value.lower():
                    kind = EVENTS
            elif name == b"sec-websocket-key" or (name == b"upgrade" and _asks_for_websocket(request, value)):
                # The first without the second is what arrives behind a proxy that was not told to pass upgrades on.
                return WEBSOCKET
        if kind == THREAD and below:
            path = request.raw_path
            if b"%" in path:
                path = unquote_to_bytes(path)
            if path in exact or path.startswith(below):
                return PATH
        return kind

    return route


def _asks_for_websocket(request: RequestReceived, protocol: bytes) -> bool:
    """RFC 9110 7.8: an Upgrade of HTTP/1.0, or one that Connection does not name, is ignored, and no fault."""
    return request.upgrade and protocol.lower() == b"websocket"


def is_event_source(request: RequestReceived) -> bool:
    """Whether the client reconnects by itself when its stream ends: a browser's EventSource, which sends GET.

    A POST that asks for an event stream (the answer of a language model, say) is one request with one answer.
    """
    return request.route == EVENTS and request.method == "GET"
