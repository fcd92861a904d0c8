"""The ASGI connection scope of an HTTP request (ASGI HTTP spec 2.5, "HTTP Connection Scope"), or of a WebSocket.

Promises every key of the specification with the right type: ``path`` decoded from percent-encoding and UTF-8,
``raw_path`` as sent, lower-case header names, and for each request its own shallow copy of the lifespan state. A
trusted proxy's connection carries many clients: ``client``, ``server`` and ``scheme`` are the request's own.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from ..connection import Connection
from ..http.events import RequestReceived

Scope = dict[str, Any]


class ScopeBuilder:
    """Builds scopes for one worker. One thread's own: the small constant parts are shared by its requests only."""

    __slots__ = ("_asgi", "_extensions", "_raw_root", "_root_path", "state")

    def __init__(self, root_path: str = "") -> None:
        self._asgi = {"version": "3.0", "spec_version": "2.5"}
        files: dict[str, Any] = {"http.response.pathsend": {}, "http.response.zerocopysend": {}}
        self._extensions = {"1.0": files, "1.1": {**files, "http.response.early_hint": {}}}
        self._root_path = root_path
        self._raw_root = root_path.encode()
        self.state: dict[str, Any] | None = None

    def build(self, conn: Connection, request: RequestReceived) -> Scope:
        """The scope of ``request``, which came over ``conn``."""
        known = request.scope
        scope = known.copy() if known else self._begin(request)
        # What each request has of its own: the application may change it.
        scope["headers"] = request.headers.copy()
        scope["extensions"] = self._extensions[request.version].copy()
        origin = request.origin
        if origin is None:
            scope["client"] = conn.peer
            scope["server"] = conn.server
            if conn.secure:
                scope["scheme"] = "https"
        else:
            scope["client"] = origin.client
            scope["server"] = origin.server
            if origin.secure:
                scope["scheme"] = "https"
        if request.trailers:
            scope["extensions"]["http.response.trailers"] = {}
        if conn.secure:
            scope["extensions"]["tls"] = conn.tls_extension()
        if self.state is not None:
            scope["state"] = self.state.copy()
        return scope

    def _begin(self, request: RequestReceived) -> Scope:
        """A scope without what differs from one request to the next; kept where the request will come again."""
        raw_path = request.raw_path
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        if self._root_path:
            # As Starlette and FastAPI expect it since ASGI 3.0's clarification: path includes root_path.
            path = self._root_path + path
            raw_path = self._raw_root + raw_path
        scope: Scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": request.version,
            "method": request.method,
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": request.query,
            "root_path": self._root_path,
            "headers": None,
            "client": None,
            "server": None,
            "extensions": None,
        }
        if request.scope is not None:
            request.scope = scope.copy()
        return scope

    def build_websocket(self, conn: Connection, request: RequestReceived, subprotocols: list[str]) -> Scope:
        """The scope of a WebSocket handshake (ASGI WebSocket spec 2.5, "WebSocket Connection Scope")."""
        scope = self.build(conn, request)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        scope["subprotocols"] = subprotocols
        scope["extensions"] = {"websocket.http.response": {}}
        if conn.secure:
            scope["extensions"]["tls"] = conn.tls_extension()
        return scope
