"""The environ of a WSGI request (PEP 3333, "environ Variables"; RFC 3875 4.1 for the CGI names).

Promises: a plain dict of its own for each request, all of whose CGI variables are native strings (bytes as latin-1);
a field that came more than once is joined with "," (RFC 9110 5.3), Cookie with "; ". PATH_INFO is what was sent,
percent-decoded; SCRIPT_NAME is ``workers.root_path``, which a proxy has stripped; REQUEST_URI and RAW_URI are the
target as sent; REMOTE_ADDR, SERVER_NAME and wsgi.url_scheme are what a trusted proxy says, where it says something.
Refuses: header names with "_" in them, which are left out, as gunicorn and nginx do: ``x_foo`` would become the same
HTTP_X_FOO as ``x-foo``, and a client could forge a field that a proxy sets.

One builder belongs to one worker's thread.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from ..memo import LONGEST
from .body import RequestBody, open_body
from .error_stream import ErrorStream
from .file_wrapper import FileWrapper

if TYPE_CHECKING:
    from ..blocking import BlockingExchange
    from ..http.events import RequestReceived

Environ = dict[str, Any]

# How many heads, and names that are not in the table, a worker remembers. Who invents more makes it forget, not grow.
_MOST: Final = 256

# fmt: off
# Literals are immortal on a free-threaded CPython, so the threads that share them write to no reference count.
NAMES: Final[dict[bytes, str]] = {
    b"accept": "HTTP_ACCEPT",
    b"accept-charset": "HTTP_ACCEPT_CHARSET",
    b"accept-encoding": "HTTP_ACCEPT_ENCODING",
    b"accept-language": "HTTP_ACCEPT_LANGUAGE",
    b"authorization": "HTTP_AUTHORIZATION",
    b"cache-control": "HTTP_CACHE_CONTROL",
    b"connection": "HTTP_CONNECTION",
    b"content-encoding": "HTTP_CONTENT_ENCODING",
    b"content-language": "HTTP_CONTENT_LANGUAGE",
    b"content-length": "CONTENT_LENGTH",
    b"content-type": "CONTENT_TYPE",
    b"cookie": "HTTP_COOKIE",
    b"dnt": "HTTP_DNT",
    b"expect": "HTTP_EXPECT",
    b"forwarded": "HTTP_FORWARDED",
    b"host": "HTTP_HOST",
    b"if-match": "HTTP_IF_MATCH",
    b"if-modified-since": "HTTP_IF_MODIFIED_SINCE",
    b"if-none-match": "HTTP_IF_NONE_MATCH",
    b"if-range": "HTTP_IF_RANGE",
    b"if-unmodified-since": "HTTP_IF_UNMODIFIED_SINCE",
    b"origin": "HTTP_ORIGIN",
    b"pragma": "HTTP_PRAGMA",
    b"priority": "HTTP_PRIORITY",
    b"range": "HTTP_RANGE",
    b"referer": "HTTP_REFERER",
    b"sec-ch-ua": "HTTP_SEC_CH_UA",
    b"sec-ch-ua-mobile": "HTTP_SEC_CH_UA_MOBILE",
    b"sec-ch-ua-platform": "HTTP_SEC_CH_UA_PLATFORM",
    b"sec-fetch-dest": "HTTP_SEC_FETCH_DEST",
    b"sec-fetch-mode": "HTTP_SEC_FETCH_MODE",
    b"sec-fetch-site": "HTTP_SEC_FETCH_SITE",
    b"sec-fetch-user": "HTTP_SEC_FETCH_USER",
    b"sec-gpc": "HTTP_SEC_GPC",
    b"te": "HTTP_TE",
    b"traceparent": "HTTP_TRACEPARENT",
    b"tracestate": "HTTP_TRACESTATE",
    b"transfer-encoding": "HTTP_TRANSFER_ENCODING",
    b"upgrade": "HTTP_UPGRADE",
    b"upgrade-insecure-requests": "HTTP_UPGRADE_INSECURE_REQUESTS",
    b"user-agent": "HTTP_USER_AGENT",
    b"via": "HTTP_VIA",
    b"x-api-key": "HTTP_X_API_KEY",
    b"x-correlation-id": "HTTP_X_CORRELATION_ID",
    b"x-csrf-token": "HTTP_X_CSRF_TOKEN",
    b"x-csrftoken": "HTTP_X_CSRFTOKEN",
    b"x-forwarded-for": "HTTP_X_FORWARDED_FOR",
    b"x-forwarded-host": "HTTP_X_FORWARDED_HOST",
    b"x-forwarded-port": "HTTP_X_FORWARDED_PORT",
    b"x-forwarded-prefix": "HTTP_X_FORWARDED_PREFIX",
    b"x-forwarded-proto": "HTTP_X_FORWARDED_PROTO",
    b"x-real-ip": "HTTP_X_REAL_IP",
    b"x-request-id": "HTTP_X_REQUEST_ID",
    b"x-requested-with": "HTTP_X_REQUESTED_WITH",
}
# fmt: on


class EnvironBuilder:
    """See the module. multiprocess: whether other children serve the same application."""

    __slots__ = ("_again", "_base", "_learnt")

    def __init__(self, root_path: str, multiprocess: bool, errors: ErrorStream) -> None:
        self._learnt: dict[bytes, str] = {}
        # The reader gives the same object for a head that comes again (see ``server.memo``). By its id, and with the
        # object itself, so that no other has that id meanwhile; the environ is kept when it comes a second time. With
        # this, a browser's head of 14 fields took 17.7 us in all instead of 20.2, and one field 16.7 instead of 17.4.
        self._again: dict[int, tuple[RequestReceived, Environ]] = {}
        # All that every request has: a copy of 22 entries has room for 20 more, and it never grows while it is filled.
        self._base: Environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": "serverd",
            "SCRIPT_NAME": root_path.encode().decode("latin-1"),
            "REQUEST_METHOD": "",
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "REQUEST_URI": "",
            "RAW_URI": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "REMOTE_ADDR": "",
            "REMOTE_PORT": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": None,
            "wsgi.errors": errors,
            "wsgi.multithread": True,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            # It ends where the body ends, so it may be read to its end; what Werkzeug needs for chunked bodies.
            "wsgi.input_terminated": True,
        }

    def build(self, exchange: BlockingExchange) -> tuple[Environ, RequestBody | None]:
        """The environ of a request, and its ``wsgi.input`` if that has yet to arrive."""
        request = exchange.request
        conn = exchange.conn
        again = self._again.get(id(request))
        if again is not None and again[1]:
            environ = again[1].copy()
        else:
            environ = self._from_request(request)
            self._remember(request, environ, again is not None)
        origin = request.origin
        if origin is None:
            secure, peer, local = conn.secure, conn.peer, conn.server
        else:
            secure, peer, local = origin.secure, origin.client, origin.server
        if secure:
            environ["wsgi.url_scheme"] = "https"
            environ["HTTPS"] = "on"
        if peer is not None:
            environ["REMOTE_ADDR"] = peer[0]
            # Proxies tell of addresses, and seldom of ports.
            environ["REMOTE_PORT"] = str(peer[1]) if peer[1] else ""
        if local is not None and local[1] is not None:
            environ["SERVER_NAME"] = local[0]
            environ["SERVER_PORT"] = str(local[1])
        else:
            # A unix socket has neither, and PEP 3333 wants both to be there, and not empty. Host is what counts.
            environ["SERVER_NAME"] = "localhost"
            environ["SERVER_PORT"] = "443" if secure else "80"
        body = exchange.body or b""
        if conn.request is not None:
            stream, environ["wsgi.input"] = open_body(exchange, body)
            return environ, stream
        environ["wsgi.input"] = BytesIO(body)
        if request.chunked:
            # All of it is here, so its length is known, and the coding is undone (RFC 3875 4.1.2). Who took the length
            # from here and the coding from there, to pass the request on, would frame it twice.
            environ["CONTENT_LENGTH"] = str(len(body))
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        return environ, None

    def _remember(self, request: RequestReceived, environ: Environ, again: bool) -> None:
        """See ``_again``."""
        if again:
            self._again[id(request)] = (request, environ.copy())
        elif not request.content_length and not request.chunked and request.head_size <= LONGEST:
            if len(self._again) >= _MOST:
                self._again.clear()
            self._again[id(request)] = (request, {})

    def _from_request(self, request: RequestReceived) -> Environ:
        """All that the head alone determines."""
        environ = self._base.copy()
        environ["REQUEST_METHOD"] = request.method
        path = request.raw_path
        if b"%" in path:
            path = unquote_to_bytes(path)
        # RFC 3875 4.1.5: empty, or beginning with "/"; so "*" has none, and is in REQUEST_URI only.
        environ["PATH_INFO"] = path.decode("latin-1") if path != b"*" else ""
        environ["QUERY_STRING"] = request.query.decode("latin-1")
        environ["REQUEST_URI"] = environ["RAW_URI"] = request.target.decode("latin-1")
        if request.version != "1.1":
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        self._add_fields(environ, request.headers)
        return environ

    def _add_fields(self, environ: Environ, headers: list[tuple[bytes, bytes]]) -> None:
        names = NAMES
        for name, value in headers:
            key = names.get(name)
            if key is None:
                key = self._learnt.get(name) or self._learn(name)
                if not key:
                    continue
            if key in environ:
                environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value.decode("latin-1")
            else:
                environ[key] = value.decode("latin-1")

    def _learn(self, name: bytes) -> str:
        """The variable of a header that is not in the table; "" for one that is left out."""
        if b"_" in name:
            return ""
        key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        if len(self._learnt) >= _MOST:
            self._learnt.clear()
        self._learnt[name] = key
        return key
