"""The admin plane as an ASGI application: health checks, metrics, status, the page and its stream of events.

Promises: GET and HEAD, and nothing that changes anything; no answer waits for the application or for a worker, at most
``PATIENCE`` for the master; a web page of elsewhere cannot read it through the browser of somebody who can (no CORS,
and ``Host`` must be an address or localhost on a connection over loopback, against DNS rebinding); nothing is loaded
from elsewhere. Refuses: WebSockets, bodies, and more than ``MOST_STREAMS`` streams of events.

Threads: all of it belongs to the event loop's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from . import health, metrics, status
from .health import Verdict
from .observer import Observer
from .page import PAGE, POLICY
from .snapshot import Snapshot

MOST_STREAMS: Final = 32

type Scope = dict[str, Any]
type Receive = Callable[[], Awaitable[dict[str, Any]]]
type Send = Callable[[dict[str, Any]], Awaitable[None]]
type Headers = list[tuple[bytes, bytes]]

_TEXT: Final = b"text/plain; charset=utf-8"
_ALWAYS: Final = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_HERE: Final = "/livez /readyz /startupz /metrics /status /"


class AdminApp:
    """See the module. ``silence``: for how many seconds the master has owed an answer. ``limit``:
    admin.ready_capacity."""

    def __init__(self, observer: Observer, silence: Callable[[], Awaitable[float]], *, limit: float) -> None:
        self._observer = observer
        self._silence = silence
        self._limit = limit
        self._streams = 0
        self._routes: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            "/": self._page,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/startupz": self._startupz,
            "/metrics": self._metrics,
            "/status": self._status,
            "/events": self._events,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close"})
            return
        route = self._routes.get(scope["path"])
        if not is_called_rightly(scope):
            said = "call this server by localhost or by its address: it does not answer to other names\n"
            await _answer(send, 421, said)
        elif route is None:
            await _answer(send, 404, f"there is {_HERE}\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, "GET and HEAD only\n", extra=[(b"allow", b"GET, HEAD")])
        else:
            await route(scope, receive, send)

    async def _livez(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _verdict(send, health.alive(await self._silence()))

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _verdict(send, self._ready(self._observer.look()))

    async def _startupz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _verdict(send, health.started(self._observer.look()))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        snapshot = self._observer.look()
        if snapshot is None:
            await _answer(send, 503, "the master has published nothing yet\n")
        else:
            await _answer(send, 200, metrics.render(snapshot), metrics.CONTENT_TYPE)

    async def _status(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = self._described(self._observer.look())
        if text is None:
            await _answer(send, 503, "the master has published nothing yet\n")
        else:
            await _answer(send, 200, text + b"\n", b"application/json")

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-security-policy", POLICY), (b"x-frame-options", b"DENY")]
        await _answer(send, 200, PAGE, b"text/html; charset=utf-8", headers)

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The status now, and again after each look."""
        if self._streams >= MOST_STREAMS:
            said = f"{MOST_STREAMS} streams are open: close a page first\n"
            await _answer(send, 503, said, extra=[(b"retry-after", b"5")])
            return
        headers = [(b"content-type", b"text/event-stream"), *_ALWAYS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams += 1
        await receive()  # the request; what comes next is that the client has left
        left = asyncio.ensure_future(receive())
        try:
            snapshot = self._observer.look()
            while True:
                text = self._described(snapshot)
                event = b": nothing yet\n\n" if text is None else b"data: " + text + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
                if left.done():
                    return
                snapshot = await self._observer.next()
        except OSError:
            pass  # the reader has left, or does not read
        finally:
            self._streams -= 1
            left.cancel()

    def _ready(self, snapshot: Snapshot | None) -> Verdict:
        return health.ready(snapshot, self._observer.capacity, self._limit)

    def _described(self, snapshot: Snapshot | None) -> bytes | None:
        if snapshot is None:
            return None
        found = status.describe(snapshot, self._ready(snapshot))
        return json.dumps(found, separators=(",", ":")).encode()


async def _verdict(send: Send, verdict: Verdict) -> None:
    word = "ok" if verdict.ok else "no"
    await _answer(send, 200 if verdict.ok else 503, f"{word}: {verdict.reason}\n")


async def _answer(
    send: Send, code: int, body: bytes | str, kind: bytes = _TEXT, extra: Headers | None = None
) -> None:
    data = body.encode() if isinstance(body, str) else body
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode()), *_ALWAYS]
    await send({"type": "http.response.start", "status": code, "headers": headers + (extra or [])})
    await send({"type": "http.response.body", "body": data})


def is_called_rightly(scope: Scope) -> bool:
    """Whether a request that came over loopback names us by localhost or an address. Another name, which somebody
    else's DNS answers for, may be that of a page that wants to read from here (DNS rebinding)."""
    address, port = scope["server"]
    if port is None or not ip_address(address).is_loopback:
        return True
    for name, value in scope["headers"]:
        if name == b"host":
            return is_local_name(value.decode("latin-1"))
    return True  # HTTP/1.0: no browser


def is_local_name(host: str) -> bool:
    """``host``: the value of a Host field, with its port or without."""
    name = host.rpartition(":")[0] if host.rpartition("]")[2].count(":") else host
    name = name.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with suppress(ValueError):
        ip_address(name.removeprefix("[").removesuffix("]"))
        return True
    return False
