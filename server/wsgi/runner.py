"""Calls a WSGI application for one request (PEP 3333): environ, the call, its response, and ``close``.

Promises: the call, the iteration and ``close()`` of what it returned all happen on the calling thread; ``close()`` is
called exactly once whatever happened, also when the client left; an application that breaks the protocol gets 500
(or a cut connection, when the response has begun) and one line in the error log. Exceptions of the application leave
``run``: ``AppRunner`` logs them. Refuses: to read ahead of what the client takes.

A runner belongs to one worker, and so does all that it makes. The application is called from many threads at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .environ import EnvironBuilder
from .error_stream import ErrorStream
from .response import Misuse, Response

if TYPE_CHECKING:
    from ..app_loader import WSGIApp
    from ..blocking import BlockingExchange
    from ..host import Host

errors = logging.getLogger("serverd.error")


class WsgiRunner:
    """See the module."""

    __slots__ = ("_app", "_environs", "_errors")

    def __init__(self, worker: Host, app: WSGIApp) -> None:
        config = worker.config.workers
        self._app = app
        self._errors = ErrorStream()
        self._environs = EnvironBuilder(config.root_path, config.process_count() > 1, self._errors)

    def run(self, exchange: BlockingExchange) -> None:
        """Let the application answer ``exchange``. Raises what the application raised, ClientGone, ResponseError."""
        environ, arriving = self._environs.build(exchange)
        response = Response(exchange)
        try:
            result = self._app(environ, response.start_response)
            try:
                response.send(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Misuse as exc:
            path = exchange.request.raw_path.decode("ascii", "backslashreplace")
            errors.error("%s %s: the application %s", exchange.request.method, path, exc)
            exchange.fail(500, "Internal Server Error")
        finally:
            if arriving is not None:
                arriving.end()
            self._errors.flush()
